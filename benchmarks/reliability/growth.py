"""Measures what a long run and a long study leave growing: memory, file descriptors, and bytes that are written.

    python benchmarks/reliability/growth.py [--steps 20000] [--trials 100] [-o benchmarks/results/reliability.json]

A run of tiny steps and a study of tiny trials are processes of their own, looked at, with workers, every half second.
Their second tenth, when all is imported and all caches are filled, is compared with their last. Prints a JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.runs import Run

TINY = ["--set=reference.num_epochs=null"]
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """What a command and its workers hold after `done` steps or trials."""

    done: int
    memory_bytes: int
    descriptors: int
    written_bytes: int


def family(process: int) -> list[int]:
    """A process and all that it has started."""
    found = [process]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def look(process: int, done: int, folder: Path) -> Sample:
    memory = descriptors = 0
    for one in family(process):
        with suppress(OSError):
            memory += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * PAGE
            descriptors += len(os.listdir(f"/proc/{one}/fd"))
    files = (file for file in folder.rglob("*") if file.is_file() and "checkpoints" not in file.parts)
    return Sample(done, memory, descriptors, sum(file.stat().st_size for file in files))


def watch(command: list[str], folder: Path, count: Callable[[], int]) -> tuple[list[Sample], float]:
    """Samples of a command that writes below `folder`, until it ends; and the seconds that it took."""
    samples: list[Sample] = []
    began = time.monotonic()
    with open(folder / "log", "wb") as log:
        started = subprocess.Popen([sys.executable, "-m", "anybatch", *command], stdout=log, stderr=log)
        while started.poll() is None:
            with suppress(OSError, ValueError, LookupError):
                samples.append(look(started.pid, count(), folder))
            time.sleep(0.5)
    if started.returncode:
        raise SystemExit((folder / "log").read_text())
    return samples, time.monotonic() - began


def compare(samples: list[Sample], total: int) -> dict[str, Any]:
    """Medians in the second tenth and in the last one, and what was written for each of `total` in between."""
    early = [one for one in samples if 0.1 * total <= one.done <= 0.2 * total]
    late = [one for one in samples if 0.9 * total <= one.done < total]

    def both(of: Callable[[Sample], int]) -> list[int]:
        return [int(median(map(of, part))) for part in (early, late)]

    first, last = early[0], late[-1]
    return {
        "memory_bytes": both(lambda one: one.memory_bytes),
        "most memory_bytes": [max(one.memory_bytes for one in part) for part in (early, late)],
        "descriptors": both(lambda one: one.descriptors),
        "most descriptors": [max(one.descriptors for one in part) for part in (early, late)],
        "written_bytes each": round((last.written_bytes - first.written_bytes) / (last.done - first.done)),
        "samples": len(samples),
    }


def run_of(steps: int, scratch: Path) -> dict[str, Any]:
    folder = scratch / "run"
    folder.mkdir()
    run = Run(folder / "it")
    command = ["train", "digits-lenet", f"--run={run.path}", "--batch-size=8", *TINY]

    def done() -> int:
        with open(run.metrics_file, "rb") as file:
            file.seek(max(0, run.metrics_file.stat().st_size - 4096))
            lines = file.read().split(b"\n")[1:-1]
        return int(json.loads(lines[-1])["step"])

    samples, wall_s = watch([*command, f"--set=reference.num_examples={8 * steps}"], folder, done)
    log_bytes = (folder / "log").stat().st_size
    return {"steps": steps, **compare(samples, steps), "printed_bytes": log_bytes, "wall_s": round(wall_s)}


def study_of(trials: int, scratch: Path) -> dict[str, Any]:
    folder = scratch / "study"
    folder.mkdir()
    command = ["study", "digits-lenet", "--protocol=untuned", "--optimizer=lamb", f"--seeds={trials}"]
    command += ["--batch-size=64", "--set=reference.num_examples=512", "--set=reference.num_epochs=null"]

    def done() -> int:
        return sum(1 for _ in (folder / "it").glob("runs/**/result.json"))

    samples, wall_s = watch([*command, f"--out={folder / 'it'}"], folder, done)
    log_bytes = (folder / "log").stat().st_size
    return {"trials": trials, **compare(samples, trials), "printed_bytes": log_bytes, "wall_s": round(wall_s)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000, help="of the run; 0: none")
    parser.add_argument("--trials", type=int, default=100, help="of the study; 0: none")
    parser.add_argument("-o", "--out", type=Path, help="write the JSON object here, too; what else is in it is kept")
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        for what, measure, count in (("long run", run_of, asked.steps), ("long study", study_of, asked.trials)):
            if count:
                found[what] = {**measure(count, Path(name)), "environment": describe_environment()}
                if asked.out is not None:
                    write_json(asked.out, found)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
