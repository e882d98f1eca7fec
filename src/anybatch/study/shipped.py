"""Our own studies that come with the package: all run on a CPU, the first in minutes."""

import json
from collections.abc import Mapping
from typing import Any

from anybatch.recipes import Recipe, change, find_recipe
from anybatch.recipes.change import as_another_optimizer
from anybatch.study.declaration import LR, Entrant, Study


def variant(recipe: str, optimizer: str, lr: float, *changes: str, **options: Any) -> Recipe:
    """Returns the recipe with another optimizer, its options, and a reference learning rate for it."""
    return change(
        find_recipe(recipe),
        [*as_another_optimizer(optimizer, options), f"reference.lr={lr}", *changes],
    )


def demo() -> Study:
    """LAMB, AdamW and Nesterov with LeNet on digits, three batches, six learning rates each: 81 runs, two minutes."""
    recipe = "digits-lenet"
    changes = ["reference.num_epochs=null", "reference.num_examples=20480", "engine.micro_batch_size=64"]
    return Study(
        name="demo",
        question="At equal tuning budgets, which optimizer ends with the lower loss, at which batch?",
        entrants=(
            Entrant("LAMB", variant(recipe, "lamb", 0.01, *changes), {LR: (0.005, 0.2)}),
            Entrant("AdamW", variant(recipe, "adamw", 0.002, *changes), {LR: (0.001, 0.05)}),
            Entrant("Nesterov", variant(recipe, "momentum", 0.1, *changes, nesterov=True), {LR: (0.02, 1.0)}),
        ),
        batch_sizes=(32, 128, 512),
        protocol="grid",
        num_evals=16,
        target=0.35,
    )


def reality_check() -> Study:
    """Nesterov and AdamW against LAMB and LARS at full, equal, quasirandom budgets: Nado et al. 2021, smaller."""
    others = {"optimizer.warmup_ratio": (0.02, 0.5), "optimizer.weight_decay": (1e-4, 1e-1)}
    return Study(
        name="reality-check",
        question="With full tuning budgets, do layer-wise optimizers still win at large batches (arXiv 2102.06356)?",
        entrants=(
            Entrant("LAMB", variant("bert-demo", "lamb", 0.011), {LR: (2e-3, 1e-1), **others}),
            Entrant("LARS", variant("bert-demo", "lars", 0.01), {LR: (1e-3, 1e-1), **others}),
            Entrant("AdamW", variant("bert-demo", "adamw", 0.002), {LR: (2e-4, 2e-2), **others}),
            Entrant("Nesterov", variant("bert-demo", "momentum", 0.1, nesterov=True), {LR: (1e-2, 2.0), **others}),
        ),
        batch_sizes=(16, 64, 256),
        protocol="quasirandom",
        num_trials=20,
        seeds=(0, 1, 2, 3, 4),
        target=6.7,
    )


def ablation() -> Study:
    """Each choice inside LAMB changed separately, at the reference batch and at four times that, one grid for all."""
    variants: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("LAMB", {}),
        ("L1-norm", {"norm": "l1"}),
        ("Linf-norm", {"norm": "linf"}),
        ("phi-0.1-10", {"phi": [0.1, 10.0]}),
        ("no-bias-correction", {"bias_correction": False}),
        ("N-LAMB", {"nesterov": "m"}),
        ("NN-LAMB", {"nesterov": "mv"}),
    )
    recipes = {name: variant("bert-demo", "lamb", 0.011, **options) for name, options in variants}
    recipes["adapt-excluded"] = variant("bert-demo", "lamb", 0.011, "optimizer.adapt_excluded=true")
    heads = dict.fromkeys(("query.weight", "key.weight", "value.weight"), 2)
    # Every row of a matrix, which is the input of one neuron; the feed-forward layers of the demo's BERT have 64 and
    # 256.
    neurons = dict.fromkeys(("query.weight", "key.weight", "value.weight", "output.dense.weight"), 64)
    neurons["intermediate.dense.weight"] = 256
    for name, blocks in {"per-head": heads, "per-neuron": neurons}.items():
        recipes[name] = variant("bert-demo", "lamb", 0.011, f"optimizer.blocks={json.dumps(blocks)}")
    return Study(
        name="ablation",
        question="Which of LAMB's choices matter: norm, phi, bias correction, Nesterov, exclusions, granularity?",
        entrants=tuple(Entrant(name, recipe, {LR: (0.002, 0.05)}) for name, recipe in recipes.items()),
        batch_sizes=(16, 64),
        protocol="grid",
        seeds=(0, 1, 2, 3, 4),
    )
