"""The optimizer step on this machine, against other installed libraries and the memory's speed."""

import gc
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from anybatch.environment import describe_environment, version_of
from anybatch.errors import InputError
from anybatch.machine.contenders import Contender, contenders
from anybatch.machine.doctor import PACKAGES
from anybatch.machine.problem import Problem, Unavailable
from anybatch.machine.shapes import SETS, find_shapes
from anybatch.machine.traffic import CountBytes
from anybatch.progress import Progress, SilentProgress

# A sample takes at least this long, so that the clock and an interrupt matter little.
_SAMPLE_S = 0.02
# It ends with the process that started it, in any case.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))\n"


@dataclass(frozen=True)
class Conditions:
    """How to measure.

    Args:
        algorithm: "lamb" or "lars".
        sets: names from `SETS`, or of recipes.
        device: "cpu" or "cuda".
        threads: torch's threads; None: torch's choice.
        busy: the number of processes that each keep a core busy during the measurement.
        clip: the bound of the gradients' global norm; None: no clipping.
        repeats: samples of each step, at least 7.
        compiled: also torch.compile of a per-tensor LAMB.

    Raises:
        InputError: naming the argument, its value and its bound.
    """

    algorithm: str = "lamb"
    sets: tuple[str, ...] = tuple(SETS)
    device: str = "cpu"
    threads: int | None = None
    busy: int = 0
    clip: float | None = None
    repeats: int = 9
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.algorithm not in ("lamb", "lars"):
            raise InputError(f"algorithm {self.algorithm!r}: must be lamb or lars")
        for name in self.sets:
            find_shapes(name)
        for name, value, bound in (("threads", self.threads, 1), ("busy", self.busy, 0), ("repeats", self.repeats, 7)):
            if value is not None and value < bound:
                raise InputError(f"{name} {value}: must be at least {bound}")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip {self.clip}: must be above 0")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"device {self.device!r}: must be cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch finds no GPU here; use cpu")


def measure(conditions: Conditions, progress: Progress | None = None) -> dict[str, Any]:
    """Times every contender on every set, in turns, sample by sample; JSON values only.

    Returns:
        "conditions", "environment", and "sets": for each its name, tensors and parameters, and either "rows" or
        "why_not". A row has "name", "role", and either "why_not" or "median_s", "samples_s", "bytes_per_parameter",
        "counted" (operation by operation, or known), "gb_per_s", and "against_reference", its time over the other's.
    """
    progress = progress or SilentProgress()
    before = torch.get_num_threads()
    torch.set_num_threads(conditions.threads or before)
    try:
        environment = {**describe_environment(), "versions": {name: version_of(name) for name in PACKAGES}}
        sets = [_set(name, conditions, progress) for name in conditions.sets]
    finally:
        torch.set_num_threads(before)
    return {
        "conditions": {**asdict(conditions), "sets": list(conditions.sets)},
        "environment": environment,
        "sets": sets,
    }


def _set(name: str, conditions: Conditions, progress: Progress) -> dict[str, Any]:
    shapes = find_shapes(name)
    numel = sum(math.prod(shape) for shape in shapes)
    found: dict[str, Any] = {"name": name, "tensors": len(shapes), "parameters": numel}
    try:
        problem = Problem(shapes, torch.device(conditions.device))
    except Unavailable as reason:
        return {**found, "why_not": str(reason)}
    runners, rows = [], []
    for contender in contenders(conditions.algorithm, conditions.compiled):
        progress.say(f"{name}: {contender.name}")
        row: dict[str, Any] = {"name": contender.name, "role": contender.role}
        try:
            runners.append(_Runner(contender, problem, conditions.clip, row))
        except Unavailable as reason:
            row["why_not"] = str(reason)
        rows.append(row)
    with busy_processes(conditions.busy):
        _samples(name, runners, conditions.repeats, progress)
    for runner in runners:
        runner.conclude(numel)
    reference = next((row["median_s"] for row in rows if row["role"] == "reference" and "median_s" in row), None)
    for row in rows:
        if "median_s" in row and reference is not None:
            row["against_reference"] = row["median_s"] / reference
    return {**found, "rows": rows}


class _Runner:
    """One contender, ready to be timed."""

    def __init__(self, contender: Contender, problem: Problem, clip: float | None, row: dict[str, Any]) -> None:
        self._row, self._samples = row, list[float]()
        self._cuda = problem.device.type == "cuda"
        try:
            self._step = contender.make(problem, clip)
            with CountBytes() as traffic:
                self._step()
            self._once()
        except torch.OutOfMemoryError:
            raise Unavailable("the memory does not suffice") from None
        known = contender.bytes_per_parameter
        row["counted"] = known is None
        counted = traffic.bytes / problem.numel or None  # no operation of torch's was seen
        row["bytes_per_parameter"] = counted if known is None else known
        self._steps = max(1, math.ceil(_SAMPLE_S / self._once()))

    def sample(self) -> None:
        """Times as many steps as fill a sample."""
        self._samples.append(self._once(self._steps) / self._steps)

    def _once(self, steps: int = 1) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def conclude(self, numel: int) -> None:
        """Writes the results into the row."""
        self._row["median_s"] = median(self._samples)
        self._row["samples_s"] = self._samples
        if self._row["bytes_per_parameter"]:
            self._row["gb_per_s"] = self._row["bytes_per_parameter"] * numel / self._row["median_s"] / 1e9


def _samples(name: str, runners: list[_Runner], repeats: int, progress: Progress) -> None:
    """Takes samples in turns, so that other load affects all alike; each round starts with another one."""
    task = progress.task(f"{name}: measuring", repeats)
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(repeats):
            for i in range(len(runners)):
                runners[(i + round_) % len(runners)].sample()
            task.advance(round_ + 1, "")
    finally:
        if collects:
            gc.enable()
        task.end()


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Runs `number` other processes during the block, which compute as fast as they can."""
    others: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            others.append(subprocess.Popen([sys.executable, "-S", "-c", _SPIN]))
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()
