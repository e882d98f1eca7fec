"""The tables of You et al. 2020 as studies. They need the data, and most of them a cluster; `--dry-run` shows the plan.

Each docstring says what is inferred, because the paper, as far as we know it, does not say it.
"""

from anybatch.study.declaration import LR, Entrant, Study
from anybatch.study.shipped import variant

_DOUBLINGS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def bert() -> Study:
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


def resnet() -> Study:
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


def resnet_16k() -> Study:
    """ResNet-50 at batch 16,384: five optimizers, one grid of learning rates 1-2-5 each. Inferred: the ranges."""
    return _five("paper-resnet-16k", "resnet50-paper", 16384, wide=True)


def cifar10() -> Study:
    """DavidNet on CIFAR-10, 24 epochs at batch 512: five optimizers, one grid each. Inferred: the ranges."""
    return _five("paper-cifar10", "cifar10-davidnet", 512, wide=True)


def mnist() -> Study:
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
