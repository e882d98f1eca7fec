"""Runs that belong together: one optimizer, as many examples each, a cell for every batch size, and the gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from anybatch.names import optimizer_title
from anybatch.report.load import ELSEWHERE, Record
from anybatch.report.wording import count, rate

TOLERANCE = 0.05
"""Quality held: of what the optimizer's own reference run learned beyond token frequencies, all but this share is
learned; where frequencies are not known, the held-out loss is at most this share above the reference's."""


@dataclass(frozen=True)
class Cell:
    """The runs of one batch size; several where several seeds ran. `factor` is None where there is no reference.

    `kept`: of each run, its gain over token frequencies as a share of the reference's gain.
    """

    batch: int
    runs: Sequence[Record]
    factor: float | None = None
    gaps: Sequence[float] = ()
    kept: Sequence[float] = ()

    @property
    def finished(self) -> list[Record]:
        return [run for run in self.runs if run.finished]

    @property
    def losses(self) -> list[float]:
        return [run.loss for run in self.finished if run.loss is not None]

    @property
    def loss(self) -> float | None:
        return fmean(self.losses) if self.losses else None

    @property
    def diverged(self) -> int:
        return sum(run.diverged for run in self.runs)

    @property
    def gap(self) -> float | None:
        return fmean(self.gaps) if self.gaps else None

    @property
    def share(self) -> float | None:
        return fmean(self.kept) if self.kept else None

    @property
    def held(self) -> bool | None:
        """None where nothing can be judged: no finished run, or nothing to compare with."""
        if self.factor is None or not self.finished or (self.gap is None and not self.diverged):
            return None
        lost = self.gap if self.share is None else 1 - self.share
        return not self.diverged and lost is not None and lost <= TOLERANCE + 1e-9

    @property
    def steps(self) -> int | None:
        return next((run.num_steps for run in self.finished), None)


@dataclass(frozen=True)
class Series:
    """One optimizer at several batch sizes and the same number of examples, in the order of the batch."""

    optimizer: str
    label: str
    cells: Sequence[Cell]
    reference_batch: int

    @property
    def reference(self) -> Cell | None:
        """The cell that the others are held to; None where that batch was not run."""
        return next((cell for cell in self.cells if cell.batch == self.reference_batch), None)

    @property
    def reference_name(self) -> str:
        """Whose the reference run is, in words."""
        runs = self.reference.runs if self.reference else []
        other = next((run for run in runs if _optimizer(run) != self.optimizer), None)
        return "its own" if other is None else f"the {optimizer_title(other.optimizer)}"

    def lent_to(self, other: "Series") -> bool:
        """Whether these runs are no more than the reference of another optimizer's."""
        mine = self.cells[0].runs[0]
        return len(self.cells) == 1 and other.optimizer != self.optimizer and any(run is mine for run in other.records)

    @property
    def records(self) -> list[Record]:
        return [run for cell in self.cells for run in cell.runs]

    @property
    def num_examples(self) -> int | None:
        known = [run.num_examples for run in self.records if run.finished and run.num_examples]
        return min(known, default=None)

    @property
    def context_free_loss(self) -> float | None:
        """What token frequencies alone give on the held-out text."""
        return _frequencies(self.records)

    @property
    def frequencies(self) -> str:
        """What `context_free_loss` rests on, in words."""
        return "token frequencies" if self.records[0].task == "causal" else "word frequencies"

    @property
    def by_share(self) -> bool:
        """Whether quality is judged by the share of the learning that is kept, not by the gap."""
        return any(cell.kept for cell in self.cells)

    @property
    def bound(self) -> float | None:
        """The highest loss at which quality held."""
        base, frequencies = self.reference.loss if self.reference else None, self.context_free_loss
        if base is None:
            return None
        return base + TOLERANCE * (frequencies - base if self.by_share and frequencies is not None else base)

    @property
    def judged(self) -> list[Cell]:
        """The cells larger than the reference of which it can be said whether quality held."""
        return [cell for cell in self.cells if cell.factor and cell.factor > 1 and cell.held is not None]

    @property
    def held(self) -> list[Cell]:
        return [cell for cell in self.judged if cell.held]

    @property
    def main(self) -> Cell | None:
        """The largest batch at which quality held."""
        return self.held[-1] if self.held else None

    @property
    def lost_beyond(self) -> list[Cell]:
        """The cells larger than `main` (or than the reference) at which quality did not hold."""
        bound = self.main.batch if self.main else 0
        return [cell for cell in self.judged if not cell.held and cell.batch > bound]

    @property
    def rule(self) -> str | None:
        """The rule by which every larger batch's settings follow from the recorded reference; None if none does."""
        runs = [
            (run.lr, run.reference.lr, run.batch / run.reference.batch)
            for run in self.records
            if run.finished and run.reference and run.batch > run.reference.batch
        ]
        if not runs or len(runs) < sum(run.finished and run.batch > self.reference_batch for run in self.records):
            return None
        if other := next((run.rule for run in self.records if run.rule not in ("sqrt", "linear")), None):
            return other
        for name, power in (("square-root", 0.5), ("linear", 1.0)):
            if all(lr and base and abs(lr / (base * factor**power) - 1) < 0.01 for lr, base, factor in runs):
                return name
        return None

    @property
    def warmup_kept(self) -> bool:
        """Every batch warms up over the same number of steps (the linear-epoch rule), up to rounding."""
        known = [run.warmup_steps for run in self.records if run.finished and run.warmup_steps is not None]
        return len(known) > 1 and min(known) > 0 and max(known) - min(known) <= max(1, 0.05 * max(known))


def build(records: Sequence[Record]) -> list[Series]:
    """The series among `records`, LAMB's first, then by name; fine-tuning runs belong to none."""
    pretraining = sorted((r for r in records if r.task != "questions"), key=_family)
    groups: list[tuple[Record, list[Record]]] = []
    for _, family in groupby(pretraining, key=_family):
        groups.extend((group[0], group) for group in _clusters(list(family)))
    built = []
    for first, group in groups:
        mine = [(other, runs) for other, runs in groups if _optimizer(other) == _optimizer(first)]
        rivals = [other for other, _ in mine if other is not first]
        # At its own batch a reference is the same by any rule. Logs of other trainers are held to one of them.
        held_to = [
            runs for other, runs in (groups if first.task == ELSEWHERE else mine) if _same_reference(first, other)
        ]
        references = [run for runs in held_to for run in runs if not run.ramp]
        built.append(_series(_label(first, rivals), group, references))
    return sorted(built, key=lambda series: (series.optimizer != "lamb", series.label))


def _optimizer(record: Record) -> str:
    return record.optimizer.lower()


def _family(record: Record) -> tuple[str, ...]:
    return record.task, record.recipe_name, _optimizer(record), record.rule, record.ramp


def _clusters(family: list[Record]) -> list[list[Record]]:
    """Runs scaled from one reference over the same number of examples, but for the rounding to whole steps."""
    clusters: list[list[Record]] = []
    for run in sorted(family, key=lambda r: (not r.finished, r.reference is None, r.num_examples or 0, r.batch)):
        for cluster in clusters:
            first = cluster[0]
            same_reference = None in (run.reference, first.reference) or run.reference == first.reference
            if same_reference and (not run.finished or _same_length(first, run)):
                cluster.append(run)
                break
        else:
            clusters.append([run])
    return clusters


def _same_length(first: Record, other: Record) -> bool:
    if first.num_examples is None or other.num_examples is None:
        return first.num_examples == other.num_examples
    slack = max(first.batch, other.batch, 0.01 * first.num_examples)
    return abs(first.num_examples - other.num_examples) <= slack


def _same_reference(first: Record, other: Record) -> bool:
    """Whether two series of one recipe come from one reference over the same length."""
    if first.task == other.task == ELSEWHERE:
        return _same_length(first, other)
    return (
        (first.task, first.recipe_name, first.reference) == (other.task, other.recipe_name, other.reference)
        and first.reference is not None
        and _same_length(first, other)
    )


def _label(first: Record, rivals: Sequence[Record]) -> str:
    name = optimizer_title(first.optimizer)
    if first.ramp:
        return f"{name} (ramp {first.ramp})"
    if first.rule not in ("sqrt", "linear"):
        name = f"{name} ({first.rule} rule)"
    rivals = [rival for rival in rivals if (rival.rule, rival.ramp) == (first.rule, first.ramp)]
    if not rivals:
        return name
    if any(rival.recipe_name != first.recipe_name for rival in rivals):
        return f"{name} ({first.recipe_name})"
    if first.reference and any(rival.reference != first.reference for rival in rivals):
        return f"{name} (reference {first.reference.batch}, rate {rate(first.reference.lr)})"
    return f"{name} ({count(first.num_examples)} examples)"


def _series(label: str, runs: list[Record], references: Sequence[Record] = ()) -> Series:
    recorded = next((run.reference.batch for run in runs if run.reference and run.task != ELSEWHERE), None)
    reference_batch = recorded or min(run.batch for run in [*runs, *references])
    by_batch = {
        batch: sorted((run for run in runs if run.batch == batch), key=lambda r: (r.seed or 0, r.name))
        for batch in sorted({run.batch for run in runs})
    }
    if not runs[0].ramp and reference_batch not in by_batch:
        shared = [run for run in references if run.batch == reference_batch]
        by_batch = dict(sorted({**by_batch, **({reference_batch: shared} if shared else {})}.items()))
    base = [] if runs[0].ramp else by_batch.get(reference_batch, [])
    frequencies = _frequencies(runs)
    cells = [
        Cell(batch, cell, batch / reference_batch if base else None, _gaps(cell, base), _kept(cell, base, frequencies))
        for batch, cell in by_batch.items()
    ]
    return Series(_optimizer(runs[0]), label, cells, reference_batch)


def _gaps(cell: Sequence[Record], base: Sequence[Record]) -> list[float]:
    """Each run's distance to its reference, as a share of the reference's loss."""
    return [loss / reference - 1 for loss, reference in _pairs(cell, base)]


def _kept(cell: Sequence[Record], base: Sequence[Record], frequencies: float | None) -> list[float]:
    """Each run's share of what its reference gained; nothing where a reference gained nothing."""
    pairs = _pairs(cell, base)
    if frequencies is None or any(reference >= frequencies for _, reference in pairs):
        return []
    return [(frequencies - loss) / (frequencies - reference) for loss, reference in pairs]


def _pairs(cell: Sequence[Record], base: Sequence[Record]) -> list[tuple[float, float]]:
    """The loss of each run, and that of the reference run of its seed, or the mean where its seed has none."""
    losses = {run.seed: run.loss for run in base if run.finished and run.loss}
    known = [run.loss for run in base if run.finished and run.loss]
    if not known or any(run.diverged for run in base):
        return []
    return [(run.loss, losses.get(run.seed) or fmean(known)) for run in cell if run.finished and run.loss]


def _frequencies(runs: Sequence[Record]) -> float | None:
    known = [run.context_free_loss for run in runs if run.context_free_loss is not None]
    return fmean(known) if known else None
