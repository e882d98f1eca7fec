"""Published runs, with which the planner is compared: the recipes' models at other lengths and batches; no command."""

from collections.abc import Callable
from dataclasses import replace

from anybatch.planner.cluster import Cluster
from anybatch.planner.examples import Curve, Fixed
from anybatch.planner.workload import Evaluation, Workload, workload_of
from anybatch.recipes import PretrainingRecipe, Recipe, find_recipe
from anybatch.recipes.resnet50 import IMAGENET_EXAMPLES

_PAPER_BOUND = "the largest of the paper's table"
_MLPERF_SOURCE = "fitted to the reference convergence points of MLPerf Training v4.0"
# The mean size of ImageNet's JPEG files, as they are read and sent to devices that decode them.
_JPEG_BYTES = 110e3


def bert_large(cluster: Cluster) -> Workload:
    """BERT-large as in the LAMB paper: 512 million sequences, nine tenths of 128 tokens, then of 512; LAMB."""
    workload = _published("published-bert-large", _bert_recipe((128, 0.9), (512, 0.1)), cluster)
    return replace(workload, examples=Fixed(512e6, 32_768, _PAPER_BOUND), batch_size=32_768)


def bert_large_mixed(cluster: Cluster) -> Workload:
    """The same, with half the batch in the second phase: the paper's 64K/32K run of 76 minutes."""
    long = bert_large(cluster)
    first, second = long.phases
    return replace(
        long,
        name="published-bert-large-mixed",
        phases=(first, replace(second, batch_ratio=0.5)),
        examples=Fixed(512e6, 65_536, _PAPER_BOUND),
        batch_size=65_536,
    )


def bert_large_mlperf(cluster: Cluster) -> Workload:
    """BERT-large as in MLPerf: from a checkpoint to a masked-word accuracy of 0.72, padding left out, LAMB, FP8."""
    # Half of the 512 positions are padding, which the submissions do not compute. Another share than half would change
    # the fitted share of the peak, and no prediction.
    return replace(
        _published("published-bert-large-mlperf", _bert_recipe((256, 1.0)), cluster, precision="fp8"),
        # Knots fitted by benchmarks/planner_against_the_world.py.
        examples=Curve(((256, 2.521e6), (4608, 2.835e6), (8448, 4.210e6), (16_384, 5.506e6)), _MLPERF_SOURCE),
        batch_size=768,
        gradient_bytes=2,
        # The rules of the benchmark: every 0.05 (230.23 B + 3,000,000) examples.
        evaluation=Evaluation(10_000, 150_000, 11.51),
        start_s=1.0,
        num_checkpoints=0,
    )


def resnet50(cluster: Cluster) -> Workload:
    """ResNet-50 on ImageNet as in the LAMB paper: 90 epochs of 224 x 224 images; LAMB."""
    workload = _published("published-resnet50", find_recipe("resnet50-paper"), cluster)
    phase = replace(workload.phases[0], cost=replace(workload.phases[0].cost, input_bytes=_JPEG_BYTES))
    return replace(
        workload,
        phases=(phase,),
        examples=Fixed(90 * IMAGENET_EXAMPLES, 32_768, _PAPER_BOUND),
        batch_size=32_768,
        evaluation=Evaluation(50_000, IMAGENET_EXAMPLES),
    )


def resnet50_mlperf(cluster: Cluster) -> Workload:
    """ResNet-50 as in MLPerf: to a top-1 accuracy of 75.9 %, LARS, evaluated every four epochs."""
    return replace(
        resnet50(cluster),
        name="published-resnet50-mlperf",
        optimizer="lars",
        examples=Curve(((1632, 35.5 * IMAGENET_EXAMPLES), (67_840, 85.5 * IMAGENET_EXAMPLES)), _MLPERF_SOURCE),
        batch_size=3200,
        gradient_bytes=2,
        evaluation=Evaluation(50_000, 4 * IMAGENET_EXAMPLES),
        start_s=1.0,
        num_checkpoints=0,
    )


PUBLISHED: dict[str, Callable[[Cluster], Workload]] = {
    "published-bert-large": bert_large,
    "published-bert-large-mixed": bert_large_mixed,
    "published-bert-large-mlperf": bert_large_mlperf,
    "published-resnet50": resnet50,
    "published-resnet50-mlperf": resnet50_mlperf,
}


def _bert_recipe(*phases: tuple[int, float]) -> Recipe:
    """BERT-large over (sequence length, share of the examples)."""
    recipe = find_recipe("bert-large-paper")
    assert isinstance(recipe, PretrainingRecipe)
    (only,) = recipe.phases
    changed = (replace(only, sequence_length=length, share=share, max_predictions=None) for length, share in phases)
    return recipe.model_copy(update={"phases": tuple(changed)})


def _published(name: str, recipe: Recipe, cluster: Cluster, precision: str = "auto") -> Workload:
    """The recipe's model as others ran it: in 16 bits or less, kernels fused by hand, each cut as it fits."""
    engine = replace(recipe.engine, compile=True)
    workload = workload_of(recipe.model_copy(update={"engine": engine}), cluster, precision)
    return replace(workload, name=name, recipe=None, group_size=None, supposed=(), evaluation=None, num_checkpoints=10)
