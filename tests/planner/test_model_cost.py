"""What is counted on the meta device, against formulas, published counts and what the engine keeps on this machine."""

from functools import partial

import pytest

from anybatch.engine.preview import preview
from anybatch.models.bert import BertSettings, pretraining_flops
from anybatch.models.classifier import classifier_flops
from anybatch.models.gpt import GptSettings, causal_flops
from anybatch.planner.model_cost import ModelCost, model_cost
from anybatch.recipes import change, find_recipe
from anybatch.recipes.tasks import build, outline
from anybatch.runs import Run


def counted(name: str, precision: str = "fp32", *, fused: bool = False, assignments: tuple[str, ...] = ()) -> ModelCost:
    recipe = change(find_recipe(name), list(assignments))
    plan = outline(recipe)
    return model_cost(plan.model, partial(plan.inputs, recipe.phases[0]), precision, fused=fused)


def test_flops_are_those_of_the_formulas() -> None:
    bert = BertSettings(vocabulary_size=30_522, hidden_size=1024, num_layers=24, num_heads=16, max_positions=512)
    # 19 of 128 positions are masked; the pooler and the relation's head are no part of the formula.
    assert counted("bert-large-paper").flops == pytest.approx(pretraining_flops(bert, 128, 19 / 128), rel=1e-3)
    gpt = GptSettings(vocabulary_size=50_257, hidden_size=768, num_layers=12, num_heads=12, max_positions=1024)
    assert counted("gpt2-small").flops == pytest.approx(causal_flops(gpt, 1024), rel=1e-3)
    network = outline(find_recipe("resnet50-paper")).model.settings
    # The formula asks for the gradient of the image, too.
    assert counted("resnet50-paper").flops == pytest.approx(classifier_flops(network), rel=0.011)


@pytest.mark.parametrize("name", ["bert-demo", "digits-lenet"])
def test_activations_are_those_that_the_engine_keeps(name: str, tmp_path) -> None:
    recipe = change(find_recipe(name), ["engine.micro_batch_size=8", "phases.0.batch_size=8"])
    kept = preview(build(recipe, Run(tmp_path)), 1).costs[0].activation_bytes / 8
    assert counted(name).activation_bytes == pytest.approx(kept, rel=0.1)


def test_activations_of_bert_are_those_of_korthikanti() -> None:
    """34 S H bytes a layer in 16 bits, without attention's scores (arXiv 2205.05198, equation 2), and the logits."""
    s, h = 128, 1024
    logits = 19 * 30_522 * (2 + 8)
    assert counted("bert-large-paper", "bf16").activation_bytes == pytest.approx(24 * 34 * s * h + logits, rel=0.25)


def test_recomputing_keeps_the_inputs_of_the_blocks_and_one_block() -> None:
    deep, shallow = (counted("bert-tiny", assignments=(f"model.num_layers={count}",)) for count in (8, 4))
    per_layer = (deep.activation_bytes - shallow.activation_bytes) / 4
    inputs = (deep.checkpointed_bytes - shallow.checkpointed_bytes) / 4
    assert inputs == pytest.approx(128 * 128 * 4)
    assert per_layer > 10 * inputs


def test_sixteen_bits_keep_less_and_launch_more() -> None:
    whole, half = counted("gpt2-tiny"), counted("gpt2-tiny", "bf16")
    assert half.flops == whole.flops
    assert 0.5 * whole.activation_bytes < half.activation_bytes < 0.75 * whole.activation_bytes
    assert half.launches > whole.launches, "autocast casts"


def test_a_fused_model_launches_forty_kernels_a_layer() -> None:
    deep, shallow = (counted("bert-tiny", fused=True, assignments=(f"model.num_layers={n}",)) for n in (8, 4))
    assert (deep.launches - shallow.launches) / 4 == 40


def test_nothing_is_left_on_the_model() -> None:
    recipe = find_recipe("bert-tiny")
    plan = outline(recipe)
    first, second = (model_cost(plan.model, partial(plan.inputs, recipe.phases[0]), "bf16", fused=False) for _ in "ab")
    assert first == second
    assert all(p.grad is None for p in plan.model.parameters())
