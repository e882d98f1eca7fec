"""The studies that come with the package: our own, which run on a CPU, and the tables of You et al. 2020."""

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


# The tables of You et al. 2020. They need the data, and most of them a cluster; `--dry-run` shows the plan. Each
# docstring says what is inferred, because the paper, as far as we know it, does not say it.
_DOUBLINGS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def paper_bert() -> Study:
    """BERT-large from 512 to 32,768 with scaled, untuned learning rates. Inferred: those of LARS and AdamW."""
    rates = {"LAMB": 5 / 8000, "LARS": 5 / 8000, "AdamW": 1e-4}
    return Study(
        name="paper-bert",
        question="Does BERT-large keep its quality from batch 512 to 32,768?",
        entrants=tuple(Entrant(name, variant("bert-large-paper", name.lower(), lr)) for name, lr in rates.items()),
        batch_sizes=_DOUBLINGS,
        protocol="untuned",
        seeds=(0,),
    )


def paper_resnet() -> Study:
    """ResNet-50 with LAMB from 512 to 32,768, 90 epochs, learning rates scaled by the square root and not tuned."""
    return Study(
        name="paper-resnet",
        question="Does ResNet-50 keep its accuracy from batch 512 to 32,768 with LAMB?",
        entrants=(Entrant("LAMB", variant("resnet50-paper", "lamb", 4 / 800, "reference.batch_size=512")),),
        batch_sizes=_DOUBLINGS,
        protocol="untuned",
        seeds=(0,),
        metric="label",
    )


def paper_resnet_16k() -> Study:
    """ResNet-50 at batch 16,384: five optimizers, one grid of learning rates 1-2-5 each. Inferred: the ranges."""
    return _five("paper-resnet-16k", "resnet50-paper", 16384, wide=True)


def paper_cifar10() -> Study:
    """DavidNet on CIFAR-10, 24 epochs at batch 512: five optimizers, one grid each. Inferred: the ranges."""
    return _five("paper-cifar10", "cifar10-davidnet", 512, wide=True)


def paper_mnist() -> Study:
    """LeNet on MNIST, 30 epochs at batch 1,024: five optimizers, learning rates from 1e-4 to 1e-1."""
    return _five("paper-mnist", "mnist-lenet", 1024, wide=False)


def _five(name: str, recipe: str, batch_size: int, wide: bool) -> Study:
    optimizers = {"LAMB": "lamb", "Momentum": "momentum", "AdaGrad": "adagrad", "Adam": "adam", "AdamW": "adamw"}
    ranges = {"Momentum": (1e-2, 10.0)} if wide else {}
    return Study(
        name=name,
        question=f"Which of five optimizers does best on {recipe} at batch {batch_size:,}, at equal grids?",
        entrants=tuple(
            Entrant(shown, variant(recipe, optimizer, 0.01), {LR: ranges.get(shown, (1e-4, 1e-1))})
            for shown, optimizer in optimizers.items()
        ),
        batch_sizes=(batch_size,),
        protocol="grid",
        seeds=(0, 1, 2, 3, 4),
        metric="label",
    )
