"""Recipes for small images: digits that come with the package, MNIST, CIFAR-10."""

from dataclasses import replace

from anybatch.engine import Execution
from anybatch.models.classifier import NetworkSettings
from anybatch.recipes.recipe import (
    ImagePhaseSettings,
    ImageRecipe,
    ImageSettings,
    OptimizerSettings,
    ReferenceSettings,
)

_CIFAR10 = ImageSettings(
    source_examples=50_000,
    source_classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    crop="padded",
    padding=4,
    flip=True,
)


def digits_lenet() -> ImageRecipe:
    """LeNet on 1,797 digits of 8 x 8 pixels that come with the package, LAMB; needs no file and takes seconds.

    The reference's learning rate is the best of a grid at batch 32 (benchmarks/tune_digits.py); larger batches follow
    by the square-root rule and are not tuned. One fold of five is held out: data.fold = 0 .. 4.
    """
    return ImageRecipe(
        name="digits-lenet",
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=32, lr=0.01, warmup_ratio=1 / 320, num_epochs=60),
        phases=(ImagePhaseSettings(batch_size=32, image_size=8),),
        data=ImageSettings(builtin="digits", mean=(0.2873,), std=(0.3540,)),
        model=NetworkSettings(architecture="lenet"),
        engine=Execution(micro_batch_size=256, num_evals=5),
    )


def mnist_lenet() -> ImageRecipe:
    """LeNet on MNIST (data.path: a folder with its IDX files), LAMB, 30 epochs at batch 1,024.

    Epochs and batch from You et al. 2020, appendix (MNIST, LeNet; reported top-1 .9945 with LAMB), which searched
    learning rates from 1e-4 to 1e-1. Mean and deviation are MNIST's. The recipe's `inferred` lists what the paper
    leaves open.
    """
    return ImageRecipe(
        name="mnist-lenet",
        inferred=("reference.lr and warmup_ratio", "which LeNet is meant"),
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=1024, lr=0.01, warmup_ratio=1 / 64, num_epochs=30),
        phases=(ImagePhaseSettings(batch_size=1024, image_size=28),),
        data=ImageSettings(source_examples=60_000, source_classes=10, mean=(0.1307,), std=(0.3081,)),
        model=NetworkSettings(architecture="lenet"),
        engine=Execution(micro_batch_size=256),
    )


def cifar10_davidnet() -> ImageRecipe:
    """DavidNet (ResNet-9) on CIFAR-10 (data.path), LAMB, 24 epochs at batch 512.

    Epochs and batch from You et al. 2020, appendix (CIFAR-10, DavidNet; reported top-1 .9408 with LAMB). Crops of 4
    reflected pixels, flips and holes of 8 x 8 are those of Page's code. The recipe's `inferred` lists what both leave
    open.
    """
    return ImageRecipe(
        name="cifar10-davidnet",
        inferred=("reference.lr and warmup_ratio", "reference.weight_decay", "model.batch_norm_group = 512"),
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=512, lr=0.01, warmup_ratio=1 / 64, num_epochs=24),
        phases=(ImagePhaseSettings(batch_size=512, image_size=32),),
        data=replace(_CIFAR10, padding_mode="reflect", cutout=8),
        model=NetworkSettings(architecture="davidnet", batch_norm_group=512),
        engine=Execution(micro_batch_size=512),
    )


def cifar10_resnet20() -> ImageRecipe:
    """ResNet-20 on CIFAR-10 (data.path), LAMB, 64,000 steps at batch 128.

    Length, batch, crops of 4 pixels and flips from He et al. 2016, section 4.2, who trained with momentum; everything
    else is in the recipe's `inferred`. On a CPU set reference.num_examples to what you have time for.
    """
    return ImageRecipe(
        name="cifar10-resnet20",
        inferred=("LAMB, with its reference.lr, warmup_ratio and weight decay (the source has momentum)",),
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=128, lr=0.01, warmup_ratio=1 / 160, num_examples=64_000 * 128),
        phases=(ImagePhaseSettings(batch_size=128, image_size=32),),
        data=_CIFAR10,
        model=NetworkSettings(architecture="resnet20", batch_norm_group=128),
        engine=Execution(micro_batch_size=128),
    )
