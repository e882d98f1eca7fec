"""A run is scored where it stands: finished, stopped, or at one of its checkpoints."""

import shutil
from pathlib import Path

import pytest

from anybatch.data.prepare import prepare
from anybatch.errors import InputError
from anybatch.recipes import change, evaluate_step, find_recipe, train_recipe

KINDS = {
    "digits-lenet": ["reference.num_examples=256", "reference.num_epochs=null"],
    "gpt2-tiny": ["reference.num_examples=128", "model.hidden_size=16", "phases.0.sequence_length=32"],
    "bert-tiny": [
        *("reference.num_examples=128", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1"),
        "phases.0.sequence_length=32",
    ],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "shards"
    texts = [f"Document {number} begins here. It has a second sentence, and a third. " * 4 for number in range(60)]
    prepare(lambda: texts, out, vocabulary_size=300)
    return out


@pytest.mark.parametrize("name", list(KINDS))
def test_a_checkpoint_is_scored_as_the_model_of_its_step(name: str, shards: Path, tmp_path: Path) -> None:
    settings = [*KINDS[name], "engine.num_evals=1", "engine.checkpoint_every_steps=2", "engine.keep_last=9"]
    if name != "digits-lenet":
        settings += [f"data.path={shards}", "data.num_held_out=16"]
    recipe = change(find_recipe(name), settings)
    run = tmp_path / "run"
    final = train_recipe(recipe, run)["final"]
    step, scores = evaluate_step(run)
    assert scores["loss"] == pytest.approx(final["loss"], rel=1e-6)
    last = run / "checkpoints" / f"step-{step:08d}"
    assert evaluate_step(last) == (step, pytest.approx(scores, rel=1e-6))
    earlier = sorted((run / "checkpoints").iterdir())[0]
    at, other = evaluate_step(earlier)
    assert at == 2 < step
    assert other["loss"] != scores["loss"]
    # As a run that was stopped: no result and no model yet; its newest checkpoint cut short.
    (run / "result.json").unlink()
    shutil.rmtree(run / "model")
    assert evaluate_step(run)[0] == step
    (last / "model-00000.safetensors").write_bytes(b"")
    assert evaluate_step(run)[0] == step - 2
    with pytest.raises(InputError, match="no sound checkpoint"):
        evaluate_step(last)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        evaluate_step(run)
