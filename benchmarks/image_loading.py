"""Images and text on their way to the model: what a core reads, and what a rank holds at batch 32K.

    python benchmarks/image_loading.py [--before FOLDER] [--images 64] [--turns 7]

As rank 0 of 8 of ResNet-50's pipeline at 224, in groups of 64, out of JPEGs in memory (see image_decoding.py): images
for each second of processor time, uint8 as for a GPU and normalized as for a CPU, and the most memory that a process
takes with two steps of 32,768 under way, PyTorch included. With processes, the time is that of the training
process, which hands out and collects: what one such process can keep up with. FOLDER is the `src` of another revision,
with which the loader of masked batches takes turns. Writes benchmarks/results/image-loading.json.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results" / "image-loading.json"
BATCH, RANKS, GROUP, SIZE = 32_768, 8, 64, 224


def images(count: int, way: str, batch: int = BATCH) -> dict[str, float]:
    """Reads a step of rank 0, and part of another."""
    from image_decoding import in_memory, photograph, with_threads

    from anybatch.data.images.source import ImageSource, Normalization
    from anybatch.data.sampling import Stream
    from anybatch.engine.loading import cut, loading, read_share
    from anybatch.recipes.freed_memory import keep_freed_memory
    from anybatch.recipes.phases import StreamedExamples

    keep_freed_memory()
    files = [photograph(seed) for seed in range(count)] * (2 * batch // count)
    pictures = in_memory(files)
    views: Any = with_threads(pictures, 1)
    if way == "processes":
        from anybatch.data.images.processes import ProcessViews

        views = ProcessViews(views, 2)
    source = ImageSource(views, pictures.labels, Normalization((0.5,) * 3, (0.25,) * 3), 0, raw=way != "normalized")
    examples = StreamedExamples(source, Stream(len(files), 0))
    pieces = cut(0, batch, 0, RANKS, GROUP, GROUP)
    started = time.process_time()
    read = 0
    with loading(lambda step: read_share(examples, pieces), iter(range(2)), ahead=True, pin=False) as loader:
        for micro_batch in loader.next().micro_batches:
            read += micro_batch.num_examples
        taken = time.process_time() - started
    return {"images_a_core_second": read / taken, "most_bytes": _most_bytes(), "images": read}


def text(before: Path, turns: int, batches: int = 40) -> dict[str, Any]:
    """Sequences for each second of processor time, through the loader as it was and as it is, in turns."""
    from anybatch.engine import loading as now
    from anybatch.recipes import change, find_recipe
    from anybatch.recipes.execute import build
    from anybatch.runs import Run

    spec = importlib.util.spec_from_file_location("before", before / "anybatch/engine/loading.py")
    assert spec is not None
    assert spec.loader is not None
    former = importlib.util.module_from_spec(spec)
    sys.modules["before"] = former
    spec.loader.exec_module(former)
    ways = {"before": (former, former.read_share), "now": (now, now.read_share)}
    changes = ["reference.num_examples=64", "phases.0.batch_size=16", "reference.batch_size=16", "data.num_held_out=8"]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        examples = build(change(find_recipe("bert-demo"), changes), Run(Path(folder))).phases[0].examples
        pieces = now.cut(0, 64, 0, 1, 16)
        for turn in range(turns + 1):
            for name, (module, share_of) in list(ways.items())[:: 1 if turn % 2 else -1]:
                steps = iter(range(batches))
                started = time.process_time()
                with module.loading(
                    lambda step, of=share_of: of(examples, pieces), steps, ahead=True, pin=False
                ) as loader:
                    for _ in range(batches):
                        assert sum(each.num_examples for each in loader.next().micro_batches) == 64
                if turn:
                    taken[name].append(64 * batches / (time.process_time() - started))
    ratios = sorted(after / former for former, after in zip(taken["before"], taken["now"], strict=True))
    return {
        "sequences_a_core_second": {name: median(values) for name, values in taken.items()},
        "now_of_before": median(ratios),
        "range": [ratios[0], ratios[-1]],
    }


def _most_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _asked(*arguments: str) -> Any:
    """What this file prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    ways = ["raw", "normalized", "processes"]
    parser.add_argument("--only", nargs="*", choices=ways, default=ways, help="The ways to read images.")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(images(given.images, given.part)))
        return
    from anybatch.environment import describe_environment

    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.before is not None:
        found["text"] = text(given.before, given.turns)
    for name in given.only:
        found[name] = _asked("--part", name, "--images", str(given.images))
    RESULTS.write_text(json.dumps({**found, "environment": describe_environment()}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
