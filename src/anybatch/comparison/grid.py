"""A comparison: contenders by batches, a run for each seed, and what follows from the cells' numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

from anybatch.comparison.cell import TOLERANCE, Cell, Metric
from anybatch.comparison.rows import Row
from anybatch.comparison.statistics import (
    CriticalBatch,
    Interval,
    fit_critical_batch,
    mean,
    mean_interval,
    paired_p_value,
)


@dataclass(frozen=True)
class Series:
    """One contender at several batches, in the order of the batch."""

    optimizer: str
    label: str
    cells: Sequence[Cell]
    reference_batch: int
    reference_name: str = "its own"

    @property
    def reference(self) -> Cell | None:
        """Returns the cell with which the others are compared; None if its batch was not run."""
        return self.at(self.reference_batch)

    def at(self, batch: int) -> Cell | None:
        return next((cell for cell in self.cells if cell.batch == batch), None)

    @property
    def rows(self) -> list[Row]:
        return [run for cell in self.cells for run in cell.runs]

    @property
    def metric(self) -> Metric:
        return self.cells[0].metric

    @property
    def num_examples(self) -> int | None:
        """The examples of the shortest run that ended with a score."""
        return min((run.num_examples for run in self.rows if run.score is not None and run.num_examples), default=None)

    @property
    def context_free_loss(self) -> float | None:
        return frequencies(self.rows)

    @property
    def frequencies(self) -> str:
        """Returns in words what `context_free_loss` is based on."""
        return "token frequencies" if self.rows[0].task == "causal" else "word frequencies"

    @property
    def by_share(self) -> bool:
        """Returns whether quality is judged by the kept share of the learning, not by the gap."""
        return any(cell.kept for cell in self.cells)

    @property
    def bound(self) -> float | None:
        """Returns the worst score at which quality held."""
        base, start = self.reference.score if self.reference else None, self.context_free_loss
        if base is None:
            return None
        if self.by_share and start is not None:
            return base + TOLERANCE * (start - base)
        return base * (1 - TOLERANCE if self.metric.higher else 1 + TOLERANCE)

    @property
    def judged(self) -> list[Cell]:
        """Returns the cells larger than the reference for which quality can be judged."""
        return [cell for cell in self.cells if cell.factor and cell.factor > 1 and cell.held is not None]

    @property
    def held(self) -> list[Cell]:
        return [cell for cell in self.judged if cell.held]

    @property
    def main(self) -> Cell | None:
        """Returns the largest batch at which quality held."""
        return self.held[-1] if self.held else None

    @property
    def rule(self) -> str | None:
        """Returns the rule by which every larger batch's settings follow from the reference; None if none does."""
        runs = [
            (run.lr, run.reference.lr, run.batch / run.reference.batch)
            for run in self.rows
            if run.finished and run.reference and run.batch > run.reference.batch
        ]
        if not runs or len(runs) < sum(run.finished and run.batch > self.reference_batch for run in self.rows):
            return None
        if other := next((run.rule for run in self.rows if run.rule not in ("sqrt", "linear")), None):
            return other
        for name, power in (("square-root", 0.5), ("linear", 1.0)):
            if all(lr and base and abs(lr / (base * factor**power) - 1) < 0.01 for lr, base, factor in runs):
                return name
        return None

    @property
    def warmup_kept(self) -> bool:
        """Returns whether every batch warms up over as many steps (the linear-epoch rule), up to rounding."""
        known = [run.warmup_steps for run in self.rows if run.finished and run.warmup_steps is not None]
        return len(known) > 1 and min(known) > 0 and max(known) - min(known) <= max(1, 0.05 * max(known))

    @cached_property
    def scaling(self) -> "Scaling":
        """Returns the examples to the target over the batch, with E = E_min (1 + B / B_crit) through them."""
        points = [(cell.batch, examples) for cell in self.cells for _, examples in cell.reached.values()]
        # A batch at which some seeds never arrive would enter only with its lucky seeds.
        whole = [cell for cell in self.cells if cell.steps]
        missed = [cell for cell in self.cells if cell.num_examples and cell not in whole]
        used = [(cell.batch, examples) for cell in whole for _, examples in cell.reached.values()]
        # Leaving it out would be wrong, too: the remaining, faster batches would make the critical batch too large.
        for cell in missed if used else ():
            used += [(cell.batch, examples) for _, examples in cell.reached.values()]
            used += [(cell.batch, float(cell.num_examples or 0))] * (len(cell.runs) - len(cell.reached))
        fit = fit_critical_batch(*zip(*used, strict=True)) if used else None
        return Scaling(self.label, points, whole, missed, None if missed else fit, fit if missed else None)


@dataclass(frozen=True)
class Scaling:
    """Examples to the target of one contender.

    `fit` is over the batches `fitted`, which every seed reached; None if others were `missed`. `bound` is then the
    critical batch that would follow if the others had arrived when their runs ended.
    """

    entrant: str
    points: Sequence[tuple[int, float]]
    fitted: Sequence[Cell]
    missed: Sequence[Cell]
    fit: CriticalBatch | None
    bound: CriticalBatch | None


@dataclass(frozen=True)
class Difference:
    """Two contenders at one batch, seed by seed; a positive `interval` means that the first one is better."""

    batch: int
    first: str
    second: str
    interval: Interval | None
    p_value: float | None
    num_seeds: int

    @property
    def told_apart(self) -> tuple[str, str] | None:
        """Returns (the better one, the worse one) if the interval of their difference excludes zero."""
        if self.interval is None or self.interval.low is None or self.interval.high is None:
            return None
        if self.interval.low <= 0 <= self.interval.high:
            return None
        return (self.first, self.second) if self.interval.low > 0 else (self.second, self.first)


@dataclass(frozen=True)
class Comparison:
    """Contenders by batches, and every run of them.

    Args:
        rows: all runs: also those that tune, and those that are fine-tuned from others.
        declaration: that of the runs' study; None for a folder of runs.
        question: what the study asks; `setting`: what was trained and how, in sentences.
        environment: the environment of the study's first runs.
        parts: whether tuning runs and reported runs are judged on halves of the held-out data.
    """

    series: Sequence[Series]
    rows: Sequence[Row]
    metric: Metric = field(default_factory=Metric)
    declaration: Mapping[str, Any] | None = None
    question: str = ""
    setting: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    parts: bool = False

    @property
    def is_study(self) -> bool:
        return self.declaration is not None

    @property
    def tuned(self) -> bool:
        return any(cell.tuning for one in self.series for cell in one.cells)

    @cached_property
    def contenders(self) -> list[Series]:
        """Returns the series comparable batch by batch: all of a study; of a folder, those like the first."""
        shown = [one for one in self.told if any(cell.scores for cell in one.cells)]
        return list(self.series) if self.is_study else [one for one in shown if _comparable(shown[0], one)]

    @cached_property
    def told(self) -> list[Series]:
        """Returns the series, except those whose runs are only the reference of another optimizer's."""
        return [
            one
            for one in self.series
            if len(one.cells) > 1
            or all(
                run is not one.rows[0]
                for other in self.series
                if other.optimizer != one.optimizer
                for run in other.rows
            )
        ]

    @property
    def batches(self) -> list[int]:
        return sorted({cell.batch for one in self.series for cell in one.cells})

    @property
    def repeated(self) -> bool:
        """Returns whether there is a mean over seeds."""
        return self.is_study or any(len(cell.scores) > 1 for one in self.series for cell in one.cells)

    def at(self, batch: int) -> list[tuple[Series, Cell]]:
        """Returns the contenders' cells at a batch."""
        found = ((one, one.at(batch)) for one in self.contenders)
        return [(one, cell) for one, cell in found if cell is not None]

    @cached_property
    def differences(self) -> list[Difference]:
        """Returns each pair of contenders at each batch."""
        return [
            self.difference(batch, first, second)
            for batch in self.batches
            for first, second in combinations(self.at(batch), 2)
            if first[1].runs[0] is not second[1].runs[0]
        ]

    def difference(self, batch: int, first: tuple[Series, Cell], second: tuple[Series, Cell]) -> Difference:
        (one, mine), (other, theirs) = first, second
        sign = 1 if self.metric.higher else -1
        scores, against = mine.by_seed, theirs.by_seed
        pairs = [sign * (score - against[seed]) for seed, score in scores.items() if seed in against]
        interval = mean_interval(pairs) if pairs else None
        return Difference(batch, one.label, other.label, interval, paired_p_value(pairs), len(mine.runs))

    def of_batch(self, batch: int) -> list[Difference]:
        return [each for each in self.differences if each.batch == batch]

    def best(self, batch: int) -> tuple[Series, Cell] | None:
        """Returns the contender with the best mean score at a batch."""
        known = [(cell.score, one, cell) for one, cell in self.at(batch) if cell.score is not None]
        pick = max if self.metric.higher else min
        return pick(known, key=lambda each: each[0])[1:] if known else None

    @cached_property
    def scaling(self) -> list[Scaling]:
        return [] if self.metric.target is None else [one.scaling for one in self.series]


def _comparable(first: Series, other: Series) -> bool:
    mine, theirs = first.num_examples, other.num_examples
    if first is not other and (mine is None or theirs is None or abs(mine - theirs) > 0.02 * mine):
        return False
    sizes = {run.parameters for one in (first, other) for run in one.rows if run.parameters}
    return len(sizes) <= 1 and first.rows[0].task == other.rows[0].task


def frequencies(runs: Sequence[Row]) -> float | None:
    """Returns the mean loss of token frequencies, if the runs recorded it."""
    return mean(run.context_free_loss for run in runs)
