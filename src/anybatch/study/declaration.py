"""The declaration of a study: contenders, batches, tuning, and every trial, known beforehand."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from anybatch.comparison.wording import listed
from anybatch.engine import Progress
from anybatch.errors import InputError
from anybatch.recipes import Recipe, change, with_batch_size
from anybatch.recipes.phases import scaled_phase
from anybatch.recipes.tasks import TASKS
from anybatch.scaling import Scaled
from anybatch.study.protocols import Range, grid, quasirandom

Part = Literal["tuning", "reported"]
Protocol = Literal["untuned", "grid", "quasirandom"]
Settings = Mapping[str, float]
LR = "optimizer.lr"
# Fields of a study that determine its results, and are JSON as they are.
_PLAIN = ("batch_sizes", "protocol", "seeds", "tuning_seeds", "num_trials", "metric", "target", "num_evals")
METRIC_NAMES = {name: words for task in TASKS.values() for name, words in task.accuracies.items()}


@dataclass(frozen=True)
class Outcome:
    """The result of a trial on its part of the held-out data.

    curve: (steps, examples, metric) at each evaluation, None if the metric was not finite. diverged: it was stopped,
        or ended, without a finite metric or far above its start. ratios: (step, {layer: trust ratio}) at a few steps,
        if the optimizer has them.
    """

    curve: tuple[tuple[int, int, float | None], ...]
    diverged: bool
    num_steps: int
    ratios: tuple[tuple[int, Mapping[str, float]], ...] = ()

    @property
    def final(self) -> float | None:
        return None if self.diverged or not self.curve else self.curve[-1][2]


Run = Callable[["Study", "Trial", Recipe, Path, Progress], Outcome]


@dataclass(frozen=True)
class Entrant:
    """One contender: a recipe with its optimizer and reference, and, if it is tuned, the ranges."""

    name: str
    recipe: Recipe
    ranges: Mapping[str, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One run. `settings` are fields of the recipe set after scaling; None: those of the best tuning run."""

    entrant: Entrant
    batch_size: int
    seed: int
    part: Part
    settings: Settings | None
    number: int = 0

    @property
    def cell(self) -> tuple[str, int]:
        return self.entrant.name, self.batch_size

    @property
    def key(self) -> str:
        what = f"tuning-{self.number:03d}" if self.part == "tuning" else "reported"
        return f"{self.entrant.name}-b{self.batch_size}-{what}-s{self.seed}"

    def recipe(self, settings: Settings) -> Recipe:
        assignments = [f"seed={self.seed}", *(f"{name}={json.dumps(value)}" for name, value in settings.items())]
        return change(with_batch_size(self.entrant.recipe, self.batch_size), assignments)

    def scaled(self, settings: Settings) -> list[Scaled] | None:
        """Returns each phase's learning rate, warm-up and steps; None if they depend on data not at hand."""
        recipe = self.recipe(settings)
        examples = getattr(recipe.data, "source_examples", None)
        if recipe.reference.num_epochs is not None and examples is None:
            return None
        try:
            return [scaled_phase(recipe, number, examples or 0) for number in range(len(recipe.phases))]
        except InputError as error:
            raise InputError(f"{self.entrant.name}: {error}") from None


@dataclass(frozen=True)
class Study:
    """A declared comparison. Equal means: every entrant has the same examples, batches, seeds and number of trials.

    Args:
        name: the study's name in its storage.
        question: the study's question, in a sentence.
        entrants: at least one, each with its own recipe.
        batch_sizes: global batch sizes of the first phase.
        protocol: "untuned" scales each entrant's reference by its rule; "grid" tries the learning rates 1-2-5 of
            `ranges["optimizer.lr"]`; "quasirandom" tries `num_trials` Halton points of all ranges.
        seeds: the seeds of the reported runs; `tuning_seeds`: those of the tuning runs, which must differ.
        metric: "loss", or the name of an accuracy of the recipe, measured on held-out data; tuning uses one half of
            the data and the reported runs the other.
        target: steps are counted until the metric reaches this; None: not counted.
        num_evals: the evaluations of a run; at these, the target can be reached.
        run: makes the outcome of a trial; by default it trains the recipe.
    """

    name: str
    question: str
    entrants: tuple[Entrant, ...]
    batch_sizes: tuple[int, ...]
    protocol: Protocol = "untuned"
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_seeds: tuple[int, ...] = (1000,)
    num_trials: int = 0
    metric: str = "loss"
    target: float | None = None
    num_evals: int = 20
    run: Run | None = None

    def __post_init__(self) -> None:
        for name, values in (("entrants", self.entrants), ("batch_sizes", self.batch_sizes), ("seeds", self.seeds)):
            if not values:
                raise InputError(f"study {self.name}: {name} is empty")
            if len({_identity(value) for value in values}) < len(values):
                raise InputError(f"study {self.name}: {name} has the same one twice")
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise InputError(f"study {self.name}: seed {min(shared)} is both in seeds and in tuning_seeds")
        if self.protocol not in get_args(Protocol):
            raise InputError(
                f"study {self.name}: protocol = {self.protocol!r}: must be one of {', '.join(get_args(Protocol))}"
            )
        if self.protocol == "untuned":
            return
        counts = {entrant.name: len(self._points(entrant)) for entrant in self.entrants}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"study {self.name}: the entrants have different numbers of tuning trials ({shown})")

    @property
    def higher_is_better(self) -> bool:
        return self.metric != "loss"

    @property
    def metric_name(self) -> str:
        """Returns the metric's name on the page."""
        return METRIC_NAMES.get(self.metric, self.metric) if self.run is None else self.metric

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, tuning before reporting, in the order in which they run."""
        tuning = [
            Trial(entrant, batch_size, seed, "tuning", settings, number)
            for batch_size in self.batch_sizes
            for entrant in self.entrants
            for number, settings in enumerate(self._points(entrant))
            for seed in self.tuning_seeds
        ]
        reported = [
            Trial(entrant, batch_size, seed, "reported", {} if self.protocol == "untuned" else None)
            for seed in self.seeds  # a study that is cut short has every batch once before it has one of them again
            for batch_size in self.batch_sizes
            for entrant in self.entrants
        ]
        return (*tuning, *reported)

    def tuning_of(self, trial: Trial) -> list[Trial]:
        """Returns the tuning trials from which `trial` takes its settings."""
        return [other for other in self.trials if other.part == "tuning" and other.cell == trial.cell]

    def declaration(self) -> dict[str, Any]:
        """Returns everything that determines the results, as JSON."""
        return {
            "name": self.name,
            "entrants": [
                {
                    "name": entrant.name,
                    "recipe": entrant.recipe.model_dump(mode="json"),
                    "ranges": {name: list(one) for name, one in entrant.ranges.items()},
                }
                for entrant in self.entrants
            ],
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def fingerprint(self) -> str:
        """Returns a hash of the declaration: workers on one storage must have the same."""
        return hashlib.sha256(json.dumps(self.declaration(), sort_keys=True).encode()).hexdigest()

    def _points(self, entrant: Entrant) -> list[Settings]:
        if self.protocol == "untuned":
            return []
        if self.protocol == "grid":
            if set(entrant.ranges) != {LR}:
                raise InputError(
                    f"study {self.name}, {entrant.name}: a grid is over {LR} alone, and its ranges are over "
                    f"{', '.join(entrant.ranges) or 'nothing'}"
                )
            return [{LR: rate} for rate in grid(entrant.ranges[LR])]
        if not entrant.ranges or self.num_trials < 1:
            raise InputError(f"study {self.name}, {entrant.name}: a quasirandom search needs ranges and num_trials")
        return [*quasirandom(entrant.ranges, self.num_trials)]


def _identity(value: Any) -> Any:
    return value.name if isinstance(value, Entrant) else value


def setup(study: Study) -> list[str]:
    """Returns sentences on model and data, length and schedule, batches, tuning and seeds."""
    recipe = study.entrants[0].recipe
    said = (
        []
        if study.run is not None
        else [
            f"{', on '.join(TASKS[recipe.task].describe(recipe))}.",
            _course(recipe, "optimizer.warmup_ratio" in study.entrants[0].ranges),
        ]
    )
    batches = "Batch" if len(study.batch_sizes) == 1 else "Batches"
    said.append(f"{batches} {listed(f'{size:,}' for size in study.batch_sizes)}; {_tuning(study)}")
    seeds = f"Reported: {_seeds(study.seeds)}"
    parts = ", on every other batch of the held-out data; tuning saw those between" if study.run is None else ""
    return [*said, f"{seeds}{parts if study.protocol != 'untuned' else ''}."]


def _course(recipe: Recipe, is_tuned: bool) -> str:
    reference = recipe.reference
    length = (
        f"{reference.num_examples:,} examples"
        if reference.num_examples is not None
        else f"{reference.num_epochs:g} epochs"
    )
    power = "" if reference.power == 1 else f"^{reference.power:g}"
    clipped = "not clipped" if recipe.max_grad_norm is None else f"clipped to norm {recipe.max_grad_norm:g}"
    rise = (
        "a share of the steps that is tuned"
        if is_tuned
        else f"a share of {reference.warmup_ratio:.3g} of the steps at batch {reference.batch_size:,}, at others in "
        "proportion to the batch"
    )
    return (
        f"Every run sees {length}, whatever its batch. The rate rises over {rise}, then falls as (1 - t/T){power}; "
        f"gradients are {clipped}."
    )


def _tuning(study: Study) -> str:
    if study.protocol == "untuned":
        references = ", ".join(
            f"{entrant.name} {entrant.recipe.reference.lr:.3g} at {entrant.recipe.reference.batch_size:,} "
            f"({'square-root' if entrant.recipe.reference.rule == 'sqrt' else 'linear'} rule)"
            for entrant in study.entrants
        )
        return f"nothing is tuned, rates follow from a reference: {references}."
    count = sum(trial.part == "tuning" for trial in study.trials) // (len(study.entrants) * len(study.batch_sizes))
    way = "rates 1-2-5 of a range" if study.protocol == "grid" else "Halton points of ranges"
    ranges = "; ".join(
        f"{entrant.name} "
        + ", ".join(
            f"{'' if name == LR else name + ' '}{low:g} to {high:g}" for name, (low, high) in entrant.ranges.items()
        )
        for entrant in study.entrants
    )
    return f"for each optimizer at each batch {count} tuning runs over {way} ({ranges}), {_seeds(study.tuning_seeds)}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {listed(f'{seed:,}' for seed in seeds)}"
