"""The studies that come with the package, and those that a file or a few words on the command line declare."""

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.recipes import RECIPES, Recipe, change, find_recipe
from anybatch.recipes.optimizers import OPTIMIZERS
from anybatch.recipes.recipe import (
    EncoderSettings,
    OptimizerSettings,
    PhaseSettings,
    PretrainingRecipe,
    ReferenceSettings,
)
from anybatch.study.declaration import LR, Entrant, Protocol, Study
from anybatch.study.protocols import Range

_DEMO_EXAMPLES = 8192


def demo() -> Study:
    """LAMB, AdamW and Nesterov on the demo's BERT, two batches, four rates each: about two minutes on two cores."""
    return Study(
        name="demo",
        question="At equal tuning budgets, which optimizer ends with the lower loss on a tiny BERT, at which batch?",
        entrants=(
            _entrant("LAMB", _small_bert("lamb", 0.011), (0.005, 0.05)),
            _entrant("AdamW", _small_bert("adamw", 0.002), (0.001, 0.01)),
            _entrant("Nesterov", _small_bert("momentum", 0.1, {"nesterov": True}), (0.05, 0.5)),
        ),
        batch_sizes=(32, 256),
        protocol="grid",
        num_evals=16,
        target=7.1,
    )


def reality_check() -> Study:
    """Nesterov and AdamW against LAMB and LARS at full, equal, quasirandom budgets: Nado et al. 2021, in the small."""
    warmup = {"optimizer.warmup_ratio": (0.02, 0.5)}
    decay = {"optimizer.weight_decay": (1e-4, 1e-1)}
    return Study(
        name="reality-check",
        question="With full tuning budgets, do layer-wise optimizers still win at large batches (arXiv 2102.06356)?",
        entrants=(
            Entrant("LAMB", _bert("lamb", 0.011), {LR: (2e-3, 1e-1), **warmup, **decay}),
            Entrant("LARS", _bert("lars", 0.01), {LR: (1e-3, 1e-1), **warmup, **decay}),
            Entrant("AdamW", _bert("adamw", 0.002), {LR: (2e-4, 2e-2), **warmup, **decay}),
            Entrant("Nesterov", _bert("momentum", 0.1, {"nesterov": True}), {LR: (1e-2, 2.0), **warmup, **decay}),
        ),
        batch_sizes=(16, 64, 256),
        protocol="quasirandom",
        num_trials=20,
        seeds=(0, 1, 2, 3, 4),
        target=6.7,
    )


def ablation() -> Study:
    """Each choice inside LAMB changed alone, at the reference batch and at four times that, one grid for all."""
    variants: tuple[tuple[str, list[str]], ...] = (
        ("LAMB", []),
        ("norm-l1", ['optimizer.options={"norm": "l1"}']),
        ("norm-linf", ['optimizer.options={"norm": "linf"}']),
        ("phi-0.1-10", ['optimizer.options={"phi": [0.1, 10.0]}']),
        ("no-bias-correction", ['optimizer.options={"bias_correction": false}']),
        ("N-LAMB", ['optimizer.options={"nesterov": "m"}']),
        ("NN-LAMB", ['optimizer.options={"nesterov": "mv"}']),
        ("adapt-excluded", ["optimizer.adapt_excluded=true"]),
    )
    return Study(
        name="ablation",
        question="Which of LAMB's choices matter: norm, phi, bias correction, Nesterov, exclusions?",
        entrants=tuple(
            _entrant(name, change(_bert("lamb", 0.011), changes), (0.002, 0.05)) for name, changes in variants
        ),
        batch_sizes=(16, 64),
        protocol="grid",
        seeds=(0, 1, 2, 3, 4),
    )


def paper_bert() -> Study:
    """The paper's BERT-large table, 512 to 32,768, rates scaled and not tuned; those of LARS and AdamW are inferred."""
    settings = {"lamb": 5 / 8000, "lars": 5 / 8000, "adamw": 1e-4}
    names = {"lamb": "LAMB", "lars": "LARS", "adamw": "AdamW"}
    return Study(
        name="paper-bert",
        question="Does BERT-large keep its quality from batch 512 to 32,768 (You et al. 2020)?",
        entrants=tuple(Entrant(names[name], _bert_large(name, lr)) for name, lr in settings.items()),
        batch_sizes=(512, 1024, 2048, 4096, 8192, 16384, 32768),
        protocol="untuned",
        seeds=(0,),
    )


STUDIES: dict[str, Callable[[], Study]] = {
    "demo": demo,
    "reality-check": reality_check,
    "ablation": ablation,
    "paper-bert": paper_bert,
}


def find_study(name: str) -> Study:
    """The shipped study called `name`, or the one that the Python file `name` gives by its function `study()`."""
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name in STUDIES:
        return STUDIES[name]()
    near = difflib.get_close_matches(name, [*STUDIES, *RECIPES, "theory"], n=3, cutoff=0.4) or [*STUDIES, "theory"]
    raise InputError(
        f"no study or recipe is called {name!r}; nearest: {', '.join(near)}; or name a Python file with study()"
    )


def declare(name: str, options: Mapping[str, Any]) -> Study:
    """A shipped or a user's study, or one made of the recipe `name`; `options` that are not None replace its fields.

    Args:
        options: optimizers, batch_sizes, protocol, ranges ("NAME:FIELD=LOW:HIGH" or "FIELD=LOW:HIGH"), assignments
            (fields of the recipe), num_seeds, num_trials, metric, target.
    """
    given = {key: value for key, value in options.items() if value not in (None, [])}
    num_seeds = given.pop("num_seeds", None)
    if num_seeds is not None:
        given["seeds"] = tuple(range(num_seeds))
    if "batch_sizes" in given:
        given["batch_sizes"] = tuple(given["batch_sizes"])
    optimizers, ranges, changes = (given.pop(key, []) for key in ("optimizers", "ranges", "assignments"))
    if name in RECIPES:
        recipe = change(find_recipe(name), changes)
        names = optimizers or [recipe.optimizer.name]
        entrants = tuple(_of_recipe(recipe, one, ranges) for one in names)
        protocol: Protocol = "grid" if ranges else "untuned"
        made: dict[str, Any] = {
            "name": name,
            "question": f"Which optimizer does best on {name}, and at which batch?",
            "batch_sizes": (recipe.phases[0].batch_size,),
            "protocol": protocol,
        }
        return Study(entrants=entrants, **{**made, **given})
    if optimizers or ranges or changes:
        raise InputError(f"--optimizer, --range and --set belong to a recipe's study; {name} declares its own")
    return replace(find_study(name), **given)


def _from_file(path: Path) -> Study:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.study()
    except InputError:
        raise
    # The file is the user's own program, and may fail in any way.
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from None
    if not isinstance(made, Study):
        raise InputError(f"{path}: study() returned a {type(made).__name__}, not an anybatch.study.Study")
    return made


def _of_recipe(recipe: Recipe, optimizer: str, ranges: Sequence[str]) -> Entrant:
    if optimizer not in OPTIMIZERS:
        raise InputError(f"--optimizer {optimizer}: must be one of {', '.join(OPTIMIZERS)}")
    found: dict[str, Range] = {}
    for text in ranges:
        where, separator, span = text.partition("=")
        owner, _, field = where.rpartition(":")
        try:
            low, high = map(float, span.split(":"))
        except ValueError:
            separator = ""
            low = high = 0.0
        if not separator:
            raise InputError(f"--range {text}: expected FIELD=LOW:HIGH or OPTIMIZER:FIELD=LOW:HIGH")
        if owner in ("", optimizer):
            found[field] = low, high
    name = display_name(optimizer)
    keep = recipe.optimizer.options if optimizer == recipe.optimizer.name else {}
    chosen = recipe.model_copy(
        update={"optimizer": recipe.optimizer.model_copy(update={"name": optimizer, "options": keep})}
    )
    return Entrant(name, chosen, found)


def display_name(optimizer: str) -> str:
    """An optimizer's name as the table shows it."""
    return {"lamb": "LAMB", "lars": "LARS", "adamw": "AdamW", "adam": "Adam"}.get(optimizer, optimizer.capitalize())


def _entrant(name: str, recipe: Recipe, rates: Range) -> Entrant:
    return Entrant(name, recipe, {LR: rates})


def _bert(optimizer: str, lr: float, options: Mapping[str, Any] | None = None) -> Recipe:
    recipe = find_recipe("bert-demo")
    settings = OptimizerSettings(name=optimizer, options=dict(options or {}))
    return recipe.model_copy(
        update={"optimizer": settings, "reference": recipe.reference.model_copy(update={"lr": lr})}
    )


def _small_bert(optimizer: str, lr: float, options: Mapping[str, Any] | None = None) -> Recipe:
    return change(
        _bert(optimizer, lr, options),
        [f"reference.num_examples={_DEMO_EXAMPLES}", "data.num_held_out=512"],
    )


def _bert_large(optimizer: str, lr: float) -> Recipe:
    return PretrainingRecipe(
        name="bert-large",
        optimizer=OptimizerSettings(name=optimizer),
        reference=ReferenceSettings(batch_size=512, lr=lr, warmup_ratio=1 / 320, num_examples=512_000_000),
        phases=(
            PhaseSettings(batch_size=512, sequence_length=128, share=0.9),
            PhaseSettings(batch_size=512, sequence_length=512, share=0.1),
        ),
        model=EncoderSettings(hidden_size=1024, num_layers=24, num_heads=16),
    )
