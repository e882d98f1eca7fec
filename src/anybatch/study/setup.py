"""Describes what a study trained and how, for readers who have not seen its recipes."""

from collections.abc import Sequence

from anybatch.comparison.wording import listed
from anybatch.recipes import Recipe
from anybatch.recipes.tasks import task_of
from anybatch.study.declaration import LR, Study


def setup(study: Study) -> list[str]:
    """Returns sentences on model and data, length and schedule, batches, tuning and seeds."""
    recipe = study.entrants[0].recipe
    said = (
        []
        if study.run is not None
        else [
            f"{', on '.join(task_of(recipe).describe(recipe))}.",
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
