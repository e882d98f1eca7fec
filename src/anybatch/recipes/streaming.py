"""Where data meet the engine: the examples of a source, in the order of a run."""

from dataclasses import dataclass, replace
from functools import partial

from anybatch.data.batch import Batch, Source
from anybatch.data.images.source import ImageSource
from anybatch.data.sampling import Stream, checksum
from anybatch.engine.job import Promise


@dataclass(frozen=True)
class StreamedExamples:
    """The engine's `Examples`: those of `source`, in the order of `stream`."""

    source: Source
    stream: Stream

    def read(self, start: int, count: int) -> Batch:
        """The run's examples number `start` to `start + count - 1`."""
        epochs, examples = self.stream.at(start, count)
        return replace(self.source.batch(epochs, examples), checksum=checksum(epochs, examples))

    def promised(self, start: int, count: int) -> Promise | None:
        """What is known of these examples before they are read, if they are images."""
        if not isinstance(self.source, ImageSource):
            return None
        epochs, examples = self.stream.at(start, count)
        read = partial(self.source.batch, epochs, examples)
        return Promise(self.source.promised_targets(count), checksum(epochs, examples), read)


def held_out_batches(source: Source, count: int, micro_batch_size: int) -> list[Batch]:
    """The first `count` examples of a shuffled `source` (all, if it has fewer), each as it is in epoch 0."""
    examples = StreamedExamples(source, Stream(source.num_examples, seed=0))
    count = min(count, source.num_examples)
    return [examples.read(start, min(micro_batch_size, count - start)) for start in range(0, count, micro_batch_size)]
