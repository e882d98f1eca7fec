"""Advice: what a noise scale says about batches, and that a short run gives one."""

import itertools
import json
import math
import shlex

import pytest

from anybatch.cli.advice_text import noise_text
from anybatch.data.prepare import prepare
from anybatch.data.text import read_documents
from anybatch.errors import InputError
from anybatch.numbers import null_for_nonfinite
from anybatch.progress import SilentProgress
from anybatch.recipes import builtin_text, change, find_recipe, train_recipe
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import from_json
from anybatch.runs import Run
from anybatch.scaling import NoiseScale, noise_scale
from anybatch.study.advice import candidates, growth, lost_rate, nearly_free_batch
from anybatch.study.advise import advise
from anybatch.study.execution import with_shared_text
from anybatch.study.measuring import Trainer, epoch_examples

RECIPE = find_recipe("bert-demo")
NOISE = NoiseScale(256.0, 128.0, 512.0, 1.0, 256.0, 100)


def test_nearly_free_is_a_quarter_of_the_least_noise_scale_on_the_references_ladder():
    assert nearly_free_batch(NOISE.low, 16) == 32
    assert nearly_free_batch(NOISE.low, 24) == 24
    unbounded = noise_scale([0.1, -0.2, 0.15, -0.1], [10.0, 11.0, 9.0, 10.0])
    assert unbounded.value == math.inf
    assert nearly_free_batch(unbounded.low, 16) <= unbounded.low / 4 or nearly_free_batch(unbounded.low, 16) == 2


def test_candidates_follow_the_rules_and_the_law():
    found = {c["batch_size"]: c for c in candidates(RECIPE, NOISE, epoch_examples=10**6)}
    assert found[16]["multiplier"] == pytest.approx(1.0)
    assert found[256]["multiplier"] == pytest.approx(2 / (1 + 16 / 256))
    # A critical batch at the upper end makes fewer examples, one at the lower end more.
    assert found[256]["multiplier_low"] == pytest.approx(1.5 / (1 + 16 / 512))
    assert found[256]["multiplier_high"] == pytest.approx(3 / (1 + 16 / 128))
    assert found[64]["lr"] == pytest.approx(0.011 * 2)
    assert found[64]["num_steps"] == pytest.approx(32_768 * found[64]["multiplier"] / 64, rel=0.01)
    assert found[256]["speed_up"] == pytest.approx(16 / found[256]["multiplier"])
    assert [c["batch_size"] for c in found.values() if c["nearly_free"]] == [8, 16, 32]
    assert "--batch-size 64 --set reference.num_examples=" in found[64]["command"]
    assert max(found) == 1024, "2,048 times the reference's warm-up would be the whole run"


def test_a_line_to_paste_keeps_what_was_set_but_the_length():
    settings = ["data.path=my shards", "reference.num_examples=20000", "optimizer.name=lamb"]
    for candidate in candidates(RECIPE, NOISE, 10**6, settings):
        words = shlex.split(candidate["command"])
        given = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
        assert given == [
            f"reference.num_examples={candidate['num_examples']}",
            "data.path=my shards",
            "optimizer.name=lamb",
        ]


def test_a_line_to_paste_leaves_a_recipe_of_epochs_with_one_length():
    settings = ["reference.num_epochs=null", "reference.num_examples=10240"]
    digits = find_recipe("digits-lenet")
    for recipe, given in ((digits, []), (change(digits, settings), settings)):
        for candidate in candidates(recipe, NOISE, 1000, given):
            words = shlex.split(candidate["command"])
            pasted = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
            assert change(digits, pasted).reference.num_examples == candidate["num_examples"]


def test_a_batch_is_no_more_than_the_data():
    assert max(c["batch_size"] for c in candidates(RECIPE, NOISE, epoch_examples=100)) == 64


def test_a_noise_scale_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="measure with more --steps"):
        candidates(RECIPE, NoiseScale(0.0, 0.0, math.inf, 1.0, 0.0, 3), 100)


def test_growth_needs_intervals_that_are_apart():
    late = NoiseScale(2048.0, 1024.0, 4096.0, 1.0, 1.0, 10)
    found = growth(NOISE, late, 16, 100)
    assert found["grows"]
    assert found["phases"] == [{"batch_size": 32, "first_steps": 50}, {"batch_size": 256}]
    apart = growth(NOISE, NoiseScale(600.0, 500.0, 700.0, 1.0, 1.0, 10), 16, 100)
    assert (apart["grows"], apart["phases"]) == (False, None)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A recipe whose training takes moments."""
    folder = tmp_path_factory.mktemp("advice")
    words = ["red", "green", "blue", "white", "black", "small", "large", "round", "flat", "old", "new"]
    text = "\n\n\n".join(
        f"The {words[n % 11]} {words[n % 7]} thing number {n} is {words[n % 5]}. It was {words[n % 3]} before."
        for n in range(300)
    )
    (folder / "text.txt").write_text(text)
    prepare(lambda: read_documents([folder / "text.txt"]), folder / "shards", vocabulary_size=300)
    return change(
        RECIPE,
        [
            f"data.path={folder / 'shards'}",
            "model.hidden_size=16",
            "model.num_layers=1",
            "phases.0.sequence_length=16",
            "reference.num_examples=2048",
        ],
    )


def test_a_short_run_becomes_advice(small):
    advice = advise(small, 40, Trainer(SilentProgress()))
    noise, hoped = advice["noise_scale"], advice["preconditioned_noise_scale"]
    assert noise["num_steps"] == 30, "the first quarter is not measured"
    assert noise["low"] < noise["value"] < noise["high"]
    assert hoped is not None
    assert hoped["value"] != noise["value"]
    assert sum(layer["noise_trace"] for layer in advice["layers"].values()) == pytest.approx(noise["noise_trace"])
    told = json.loads(json.dumps(null_for_nonfinite(advice), allow_nan=False))
    assert told["critical_batch"] > 0
    assert told["reference_batch_size"] == 16
    assert told["rate_range"]["tested"] > 0
    text = noise_text(advice)
    assert f"nearly free up to batch {advice['nearly_free_batch']}" in text
    assert all(candidate["command"] in text for candidate in advice["candidates"])


def test_a_rate_far_too_high_is_lost(small):
    """Plain momentum at sixteen times a rate of 3 diverges within the test; at one of 300 it does so before."""
    recipe = change(small, ["optimizer.name=momentum", "max_grad_norm=null", "reference.lr=3"])
    advice = advise(recipe, 16, Trainer(SilentProgress()))
    assert advice["rate_range"]["lost_at"] is not None
    assert advice["rate_range"]["margin"] < 16
    with pytest.raises(InputError, match="the loss was lost at the reference's own rate"):
        advise(change(recipe, ["reference.lr=300"]), 16, Trainer(SilentProgress()))


def test_the_network_that_is_measured_is_the_one_that_the_run_trains(tmp_path):
    """BatchNorm sees the run's groups, and the runs that measure are ordinary ones, which are continued."""
    recipe = change(
        find_recipe("digits-lenet"),
        ["model.architecture=resnet20", "model.width=4", "model.batch_norm_group=32", "reference.num_epochs=null",
         "reference.num_examples=2048"],
    )  # fmt: skip
    advice = advise(recipe, 16, Trainer(SilentProgress()), folder=tmp_path)
    assert (advice["reference_batch_size"], advice["measured_batch_size"]) == (32, 64), (
        "one group of 32 has no second gradient"
    )
    run = Run(tmp_path / "noise")
    assert from_json(run.recipe()).model.batch_norm_group == 32
    assert len(run.metrics("noise")) == 16
    before = run.metrics_file.read_text(encoding="utf-8")
    assert advise(recipe, 16, Trainer(SilentProgress()), folder=tmp_path) == advice
    assert run.metrics_file.read_text(encoding="utf-8") == before


def test_the_text_is_prepared_once_and_no_model_is_made_to_learn_its_length(tmp_path, monkeypatch):
    """A GPT without a path: the data of both measuring runs are one folder, with the vocabulary that it asks for."""
    texts = [f"Document {n} begins here. It has a second sentence, and a third one about {n}. " * 4 for n in range(60)]
    made = []
    monkeypatch.setattr(builtin_text, "_documents", lambda: texts)

    def counted(*given):
        made.append(given)
        return prepare_builtin_text(*given)

    monkeypatch.setattr("anybatch.study.execution.prepare_builtin_text", counted)
    sizes = ["reference.num_examples=1024", "reference.batch_size=16", "phases.0.batch_size=16"]
    recipe = change(find_recipe("gpt-demo"), sizes)
    advise(recipe, 16, Trainer(SilentProgress()), folder=tmp_path)
    assert made == [(tmp_path / "data", "characters")]
    assert not (tmp_path / "noise" / "data").exists()
    with monkeypatch.context() as patch:
        patch.setattr("anybatch.recipes.task.fresh", None)
        patch.setattr("anybatch.recipes.causal.fresh", None)
        assert epoch_examples(with_shared_text(recipe, tmp_path)) > 60


def test_a_measured_run_is_the_recipe_s_own_first_steps(small, tmp_path):
    advise(small, 16, Trainer(SilentProgress()), folder=tmp_path / "advice")
    train_recipe(small, tmp_path / "run")
    watched = [event["loss"] for event in Run(tmp_path / "advice" / "noise").metrics("train")]
    whole = [event["loss"] for event in Run(tmp_path / "run").metrics("train")]
    assert watched == pytest.approx(whole[:16], rel=1e-5)


def test_one_example_cannot_be_cut(small):
    recipe = change(small, ["reference.batch_size=1"])
    with pytest.raises(InputError, match="at least two examples a step"):
        advise(recipe, 16, Trainer(SilentProgress()))


def test_too_few_steps_are_refused(small):
    with pytest.raises(InputError, match="--steps 3: must be at least 16"):
        advise(small, 3, Trainer(SilentProgress()))
    with pytest.raises(InputError, match="has 4 steps at batch 16: 16 are needed"):
        advise(change(small, ["reference.num_examples=64"]), 40, Trainer(SilentProgress()))


def test_a_loss_that_falls_and_then_rises_is_lost_where_it_rises():
    rates = [0.01 * 1.2**step for step in range(40)]
    losses = [3 - 0.05 * step for step in range(25)] + [1.8 + 0.5 * step for step in range(15)]
    found = lost_rate(list(zip(rates, losses, strict=True)), tested=0.1)
    assert found["lost_at"] is not None
    assert rates[25] <= found["lost_at"] <= rates[29]
    assert found["margin"] == pytest.approx(found["lost_at"] / 0.1)


def test_a_loss_that_is_never_lost_has_no_margin():
    found = lost_rate([(0.1 * step, 3.0) for step in range(1, 10)], tested=0.2)
    assert (found["lost_at"], found["highest"], found["margin"]) == (None, 0.9, math.inf)


@pytest.mark.parametrize("loss", [None, math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_lost(loss):
    assert lost_rate([(0.1, 3.0), (0.2, loss), (0.3, 3.0)], tested=0.1)["lost_at"] == 0.2


def test_scatter_alone_is_no_loss():
    losses = [3 + 0.4 * (-1) ** step for step in range(40)]
    assert lost_rate([(0.1, loss) for loss in losses], tested=0.1)["lost_at"] is None
