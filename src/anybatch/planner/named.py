"""Workloads by name: published runs, which the planner is checked against, and which need no recipe."""

from collections.abc import Callable
from dataclasses import replace

from anybatch.planner.examples import IMAGENET_IMAGES, Curve, Fixed
from anybatch.planner.workload import Evaluation, Workload, WorkPhase, bert_parameters, bert_phase

_BERT_LARGE = {"vocabulary_size": 30_522, "hidden_size": 1024, "num_layers": 24}
_BERT_PARAMETERS = bert_parameters(**_BERT_LARGE, max_positions=512)
_PAPER_BOUND = "the largest of the paper's table"
_MLPERF_SOURCE = "fitted to the reference convergence points of MLPerf Training v4.0"
# Forward and backward kernels of a BERT layer and of a ResNet-50 with fused attention, normalisation and activation:
# a count to within a half, which matters for micro-batches of a few examples.
KERNELS_A_LAYER = 40
_RESNET_KERNELS = 400


def bert_large() -> Workload:
    """BERT-large as in the LAMB paper: 512 million sequences, nine tenths of them of 128 tokens, then 512; LAMB."""
    phases = (
        bert_phase("sequence 128", **_BERT_LARGE, sequence_length=128, num_masked=20, share=0.9),
        bert_phase("sequence 512", **_BERT_LARGE, sequence_length=512, num_masked=80, share=0.1),
    )
    return Workload(
        name="bert-large",
        family="transformer",
        precision="bf16",
        parameters=_BERT_PARAMETERS,
        largest_layer=30_522 * 1024,
        num_tensors=398,
        num_kernels=24 * KERNELS_A_LAYER,
        phases=phases,
        optimizer="lamb",
        examples=Fixed(512e6, 32_768, _PAPER_BOUND),
        batch_size=32_768,
    )


def bert_large_mixed() -> Workload:
    """The same with the second phase at half the batch of the first: the paper's 64K/32K run of 76 minutes."""
    long = bert_large()
    first, second = long.phases
    return replace(
        long,
        name="bert-large-mixed",
        phases=(first, replace(second, batch_ratio=0.5)),
        examples=Fixed(512e6, 65_536, _PAPER_BOUND),
        batch_size=65_536,
    )


def bert_large_mlperf() -> Workload:
    """BERT-large as in MLPerf: from a checkpoint to a masked-word accuracy of 0.72, padding left out, LAMB."""
    # Half of the 512 positions are padding, which the submissions do not compute; another share would move the fitted
    # share of the peak and no prediction.
    phase = bert_phase("sequences of 256 on the mean", **_BERT_LARGE, sequence_length=256, num_masked=38)
    return replace(
        bert_large(),
        name="bert-large-mlperf",
        phases=(phase,),
        # Knots fitted by benchmarks/planner_against_the_world.py.
        examples=Curve(((256, 2.521e6), (4608, 2.835e6), (8448, 4.210e6), (16_384, 5.506e6)), _MLPERF_SOURCE),
        batch_size=768,
        gradient_bytes=2,
        # The rules of the benchmark: every 0.05 (230.23 B + 3,000,000) examples.
        evaluation=Evaluation(10_000, 150_000, 11.51),
        start_s=1.0,
        num_checkpoints=0,
    )


def resnet50() -> Workload:
    """ResNet-50 on ImageNet as in the LAMB paper: 90 epochs of 224 x 224 images; LAMB."""
    # 4.1 G multiply-adds forward; 22 M values kept for the backward pass, or, where blocks are recomputed, 10 M: the
    # inputs of the blocks and the inside of the largest.
    phase = WorkPhase(
        title="images of 224",
        share=1.0,
        batch_ratio=1.0,
        flops=3 * 2 * 4.1e9,
        activation_bytes=2 * 22e6,
        checkpointed_bytes=2 * 10e6,
        input_bytes=110e3,
    )
    return Workload(
        name="resnet50",
        family="convolution",
        precision="bf16",
        parameters=25_557_032,
        largest_layer=2048 * 1000,
        num_tensors=161,
        num_kernels=_RESNET_KERNELS,
        phases=(phase,),
        optimizer="lamb",
        examples=Fixed(90 * IMAGENET_IMAGES, 32_768, _PAPER_BOUND),
        batch_size=32_768,
        epoch_examples=IMAGENET_IMAGES,
        evaluation=Evaluation(50_000, IMAGENET_IMAGES),
    )


def resnet50_mlperf() -> Workload:
    """ResNet-50 as in MLPerf: to a top-1 accuracy of 75.9 %, LARS, evaluated every four epochs."""
    return replace(
        resnet50(),
        name="resnet50-mlperf",
        optimizer="lars",
        examples=Curve(
            ((1632, 35.5 * IMAGENET_IMAGES), (67_840, 85.5 * IMAGENET_IMAGES)),
            _MLPERF_SOURCE,
        ),
        batch_size=3200,
        gradient_bytes=2,
        evaluation=Evaluation(50_000, 4 * IMAGENET_IMAGES),
        start_s=1.0,
        num_checkpoints=0,
    )


NAMED: dict[str, Callable[[], Workload]] = {
    "bert-large": bert_large,
    "bert-large-mixed": bert_large_mixed,
    "bert-large-mlperf": bert_large_mlperf,
    "resnet50": resnet50,
    "resnet50-mlperf": resnet50_mlperf,
}
