"""One contender at one batch, a run for each seed, and the numbers that follow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from anybatch.comparison.rows import Row, crossing
from anybatch.comparison.statistics import Interval, mean_interval

TOLERANCE = 0.05
"""Quality held: of what the contender's own reference run learned beyond token frequencies, all but this share is
learned; if frequencies are not known, the score is at most this share worse than the reference's."""
LR = "optimizer.lr"


@dataclass(frozen=True)
class Metric:
    """The number by which runs are compared, its name on the page, and its range."""

    name: str = "held-out loss"
    higher: bool = False
    least: float = 0.0
    most: float = math.inf
    target: float | None = None


@dataclass(frozen=True)
class Cell:
    """One contender at one batch: a run for each seed.

    Args:
        factor: the multiple of the reference batch; None if there is no reference run.
        gaps: by the run's name, the distance of its score to its reference's, as a share of the latter.
        kept: by the run's name, its gain over token frequencies, as a share of the reference's gain.
        tuning: the runs that only searched for settings.
        owner: the optimizer's name, if this is the reference that another optimizer ran.
    """

    batch: int
    runs: Sequence[Row]
    metric: Metric = field(default_factory=Metric)
    factor: float | None = None
    gaps: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)
    tuning: Sequence[Row] = ()
    owner: str = ""

    @cached_property
    def finished(self) -> list[Row]:
        return [run for run in self.runs if run.finished]

    @cached_property
    def scores(self) -> list[float]:
        return [run.score for run in self.finished if run.score is not None]

    @property
    def by_seed(self) -> dict[int | None, float]:
        return {run.seed: run.score for run in self.finished if run.score is not None}

    @cached_property
    def final(self) -> Interval | None:
        """Returns the mean over the seeds and its 95 % interval."""
        return mean_interval(self.scores, self.metric.least, self.metric.most) if self.scores else None

    @property
    def score(self) -> float | None:
        return self.final.mean if self.final else None

    @property
    def diverged(self) -> int:
        return sum(run.diverged for run in self.runs)

    @property
    def failed(self) -> int:
        return sum(run.state == "failed" for run in self.runs)

    @property
    def still(self) -> int:
        return sum(run.still for run in self.runs)

    @property
    def gap(self) -> float | None:
        return fmean(self.gaps.values()) if self.gaps else None

    @property
    def share(self) -> float | None:
        return fmean(self.kept.values()) if self.kept else None

    @property
    def held(self) -> bool | None:
        """None if nothing can be judged: no finished run, or nothing to compare with."""
        if self.factor is None or not self.finished or (self.gap is None and not self.diverged):
            return None
        worse = -(self.gap or 0.0) if self.metric.higher else self.gap
        lost = worse if self.share is None else 1 - self.share
        return not self.diverged and lost is not None and lost <= TOLERANCE + 1e-9

    @property
    def num_steps(self) -> int | None:
        return max((run.num_steps for run in self.finished if run.num_steps), default=None)

    @property
    def num_examples(self) -> int | None:
        """The length of the longest curve."""
        return max((run.curve[-1][1] for run in self.finished if run.curve), default=None)

    @property
    def settings(self) -> Mapping[str, float]:
        return self.runs[0].settings

    @property
    def at_edge(self) -> str | None:
        """'lowest' or 'highest' if the best learning rate is the last one tried on that side."""
        rates = sorted({run.settings[LR] for run in self.tuning if LR in run.settings})
        if len(rates) < 2 or LR not in self.settings:
            return None
        return {rates[0]: "lowest", rates[-1]: "highest"}.get(self.settings[LR])

    @cached_property
    def reached(self) -> dict[int | None, tuple[float, float]]:
        """(steps, examples) at which each seed reached the target."""
        if self.metric.target is None:
            return {}
        return {
            run.seed: place
            for run in self.finished
            if not run.diverged and (place := crossing(run.curve, self.metric.target, self.metric.higher))
        }

    @cached_property
    def steps(self) -> Interval | None:
        """Steps to the target; None if a seed did not reach it: the mean over the lucky seeds would flatter."""
        whole = self.reached and len(self.reached) == len(self.runs)
        return mean_interval([steps for steps, _ in self.reached.values()], 0.0) if whole else None
