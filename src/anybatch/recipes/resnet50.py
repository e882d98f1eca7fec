"""ResNet-50 on ImageNet (data.path: a folder tree, tar shards or parquet), as its sources ran it at large batches.

All train on random rectangles of at least 8 % of an image, flipped or not, at 224 pixels. They are evaluated on the
middle 224/256 of it, as ImageNet code has done since 2015. Colors are normalized as in the LAMB author's code.
"""

from typing import Any

from anybatch.engine import Execution
from anybatch.models.classifier import NetworkSettings
from anybatch.recipes.recipe import (
    ImagePhaseSettings,
    ImageRecipe,
    ImageSettings,
    OptimizerSettings,
    ReferenceSettings,
)

IMAGENET_EXAMPLES = 1_281_167
_MOMENTS: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-6}


def resnet50_paper() -> ImageRecipe:
    """ResNet-50 on ImageNet with LAMB, 90 epochs, from the paper's row at batch 512; every other row by --batch-size.

    You et al. 2020, appendix: learning rate 4/(2^3 * 100) and 0.3125 epochs of warm-up at batch 512. The square-root
    rule and linear-epoch warm-up give its other rows, up to 4/100 and 20 epochs at 32K. Betas, epsilon and weight
    decay are those of Algorithm 2. The recipe's `inferred` lists what the paper leaves open.
    """
    return _imagenet(
        "resnet50-paper",
        OptimizerSettings(name="lamb"),
        ReferenceSettings(
            batch_size=512, lr=4 / (2**3 * 100), warmup_ratio=0.3125 / 90, num_epochs=90, weight_decay=0.01, **_MOMENTS
        ),
        batch_norm_group=64,
        inferred=(
            "from the first author's code: reference.join = continuous, max_grad_norm = 1.0, model.label_smoothing = "
            "0.1, model.zero_init_residual = true",
            "model.batch_norm_group = 64",
        ),
    )


def resnet50_author() -> ImageRecipe:
    """ResNet-50 on ImageNet with LAMB as in the first author's code, batch 32K: weight decay 1.5, no bias correction.

    github.com/fastalgo/imagenet_resnet50_lamb: learning rate 0.04, 3,519 steps, warm-up over 20 epochs (782 steps), a
        decay that is continuous at the join, clip-norm 1.0, label smoothing 0.1. Only BatchNorm's parameters are
        neither decayed nor adapted; biases are. The log of this code ends at top-1 76.34 %. Its warm-up
        begins with a step of learning rate 0, which is left out here. The recipe's `inferred` lists what the code
        leaves open.
    """
    return _imagenet(
        "resnet50-author",
        OptimizerSettings(name="lamb", decay_biases=True, options={"bias_correction": False}),
        ReferenceSettings(
            batch_size=32_768, lr=0.04, warmup_ratio=20 / 90, num_epochs=90, weight_decay=1.5, **_MOMENTS
        ),
        batch_norm_group=128,
        inferred=("model.batch_norm_group = 128 (32K on 256 cores)", "model.zero_init_residual = true"),
    )


def resnet50_mlperf_lars() -> ImageRecipe:
    """ResNet-50 on ImageNet, MLPerf's LARS at batch 32,768: learning rate 21.2, momentum 0.94, weight decay 2.5e-5.

    Learning rate, 16 epochs of warm-up, momentum and weight decay are from MLPerf's results; the recipe's `inferred`
    lists what they leave open. `resnet50-mlperf-lars-64k` is the other row; the square root between them is a guess.
    """
    return _mlperf_lars("resnet50-mlperf-lars", 32_768, 64, 16, lr=21.2, momentum=0.94, weight_decay=2.5e-5)


def resnet50_mlperf_lars_64k() -> ImageRecipe:
    """ResNet-50 on ImageNet, MLPerf's LARS at batch 65,536: learning rate 24.699, momentum .951807, weight decay 1e-4.

    Learning rate, 31 epochs of warm-up, momentum and weight decay are from MLPerf's results; the recipe's `inferred`
    lists what they leave open.
    """
    return _mlperf_lars("resnet50-mlperf-lars-64k", 65_536, 88, 31, lr=24.699, momentum=0.951807, weight_decay=1e-4)


def resnet50_nesterov() -> ImageRecipe:
    """ResNet-50 on ImageNet with Nesterov momentum at batch 32,768 in 2,512 steps: the answer to LARS and LAMB.

    Nado et al. 2021, arXiv 2102.06356: with as much tuning as LARS, Nesterov reaches 75.92 % in as many steps. Batch
    and steps are the source's; everything else is in the recipe's `inferred`.
    """
    return _imagenet(
        "resnet50-nesterov",
        OptimizerSettings(name="nesterov"),
        ReferenceSettings(
            batch_size=32_768,
            lr=7.05,
            warmup_ratio=638 / 2512,
            num_examples=2512 * 32_768,
            power=2.0,
            momentum=0.97603,
            weight_decay=5.8e-5,
        ),
        batch_norm_group=64,
        label_smoothing=0.15,
        max_grad_norm=None,
        inferred=(
            "recalled, and not confirmed in the paper: rate 7.05, momentum 0.97603, weight decay 5.8e-5, 638 steps of "
            "warm-up, decay of power 2, label smoothing 0.15",
            "model.batch_norm_group = 64",
        ),
    )


def _mlperf_lars(name: str, batch_size: int, epochs: int, warmup_epochs: int, **settings: Any) -> ImageRecipe:
    reference = ReferenceSettings(
        batch_size=batch_size, warmup_ratio=warmup_epochs / epochs, num_epochs=epochs, power=2.0, **settings
    )
    return _imagenet(
        name,
        OptimizerSettings(name="lars", options={"form": "lars-2017", "trust_coefficient": 0.001}),
        reference,
        batch_norm_group=128,
        max_grad_norm=None,
        inferred=(
            f"reference.num_epochs = {epochs}",
            "from MLPerf's reference code: decay of power 2, trust coefficient 0.001, label smoothing 0.1",
            "the last rate is 0 (1e-4 there)",
            "model.batch_norm_group = 128, model.zero_init_residual = true",
        ),
    )


def _imagenet(
    name: str,
    optimizer: OptimizerSettings,
    reference: ReferenceSettings,
    *,
    batch_norm_group: int,
    label_smoothing: float = 0.1,
    max_grad_norm: float | None = 1.0,
    inferred: tuple[str, ...],
) -> ImageRecipe:
    """The common part of all; a run starts at its reference's batch."""
    return ImageRecipe(
        name=name,
        inferred=inferred,
        optimizer=optimizer,
        reference=reference,
        phases=(ImagePhaseSettings(batch_size=reference.batch_size, image_size=224),),
        max_grad_norm=max_grad_norm,
        data=ImageSettings(
            source_examples=IMAGENET_EXAMPLES,
            source_classes=1000,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            crop="resized",
            flip=True,
        ),
        model=NetworkSettings(
            architecture="resnet50",
            batch_norm_group=batch_norm_group,
            zero_init_residual=True,
            label_smoothing=label_smoothing,
        ),
        engine=Execution(micro_batch_size=batch_norm_group),
    )
