"""The sections of the day in their order: what can be wrong first, then what is slow, then what is learned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpu import correct, decisions, loaders, runs, speed
from gpu.day import Day, Range


@dataclass(frozen=True)
class Section:
    """`part`: the call that it belongs to; 3 has the experiments. `limit_s`: after so long it is ended."""

    name: str
    part: int
    limit_s: int
    run: Callable[[Day], None]
    expected: Mapping[str, Range]


SECTIONS = (
    Section("environment", 1, 30, correct.environment, correct.ENVIRONMENT),
    Section("step", 1, 50, correct.step, correct.STEP),
    Section("triton", 1, 110, correct.triton, correct.TRITON),
    Section("optimizer", 1, 60, speed.optimizer, speed.OPTIMIZER),
    Section("ranks", 1, 60, correct.ranks, correct.RANKS),
    Section("errors", 1, 60, correct.errors, correct.ERRORS),
    Section("bert-large", 1, 190, speed.bert_large, speed.BERT_LARGE),
    Section("attention", 2, 40, speed.attention, speed.ATTENTION),
    Section("graphs", 2, 90, decisions.graphs, decisions.GRAPHS),
    Section("auto", 2, 100, decisions.auto, decisions.AUTO),
    Section("loaders", 2, 130, loaders.loaders, loaders.LOADERS),
    Section("end-to-end", 2, 120, runs.end_to_end, runs.END_TO_END),
    Section("davidnet", 3, 150, runs.davidnet, runs.DAVIDNET),
    Section("bert-small", 3, 430, runs.bert_small, runs.BERT_SMALL),
)
