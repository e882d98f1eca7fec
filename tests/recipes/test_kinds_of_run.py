"""Every kind of pretraining trains, ends with scores, and is scored the same again."""

import json
from pathlib import Path

import pytest

from anybatch.data.prepare import prepare
from anybatch.data.squad import load_builtin
from anybatch.data.squad_score import read_predictions, score
from anybatch.data.text import Document
from anybatch.errors import InputError
from anybatch.recipes import change, evaluate_run, find_recipe, train_recipe

SMALL = ["reference.num_examples=32", "engine.num_evals=1", "data.num_held_out=16"]
TINY_BERT = ["model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "phases.0.sequence_length=32"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "shards"
    texts = [f"Document {number} begins here. It has a second sentence, and a third. " * 4 for number in range(60)]
    prepare(lambda: [Document(text, "") for text in texts], out, vocabulary_size=300)
    return out


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        (["data.objective=full_sentences", "data.packed=true", "data.short_probability=0.5"], {"mlm"}),
        (["data.objective=sentence_order", "data.whole_words=true"], {"mlm", "sop"}),
        (["data.packed=true", "data.short_probability=0.5", "phases.0.max_predictions=3"], {"mlm", "nsp"}),
    ],
)
def test_objectives_and_packing(shards: Path, tmp_path: Path, settings: list[str], losses: set[str]) -> None:
    recipe = change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}", *settings])
    result = train_recipe(recipe, tmp_path / "run")
    assert {name.removesuffix("_loss") for name in result["final"] if name.endswith("_loss")} == losses
    again = evaluate_run(tmp_path / "run")
    assert again == pytest.approx(result["final"], rel=1e-5)


def test_packing_changes_no_result(shards: Path, tmp_path: Path) -> None:
    finals = []
    for packed in ("true", "false"):
        settings = [*SMALL, *TINY_BERT, f"data.path={shards}", "data.short_probability=0.7", f"data.packed={packed}"]
        finals.append(train_recipe(change(find_recipe("bert-tiny"), settings), tmp_path / packed)["final"])
    assert finals[0] == pytest.approx(finals[1], rel=1e-4)


def test_gpt_trains_on_the_same_shards(shards: Path, tmp_path: Path) -> None:
    import math

    settings = [*SMALL, "model.hidden_size=16", "phases.0.sequence_length=32", f"data.path={shards}"]
    result = train_recipe(change(find_recipe("gpt2-tiny"), settings), tmp_path / "run")
    assert result["final"]["perplexity"] == pytest.approx(math.exp(result["final"]["loss"]))
    assert evaluate_run(tmp_path / "run") == pytest.approx(result["final"], rel=1e-5)
    with pytest.raises(InputError, match="a pretraining run cannot answer questions"):
        evaluate_run(tmp_path / "run", tmp_path / "dev.json")


def test_a_run_starts_from_somebody_s_folder(shards: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *TINY_BERT, f"data.path={shards}"]
    train_recipe(change(find_recipe("bert-tiny"), settings), tmp_path / "first")
    theirs = tmp_path / "first" / "model"
    frozen = change(find_recipe("bert-tiny"), [*settings, f"model.path={theirs}", "optimizer.lr=0"])
    before, after = evaluate_run(tmp_path / "first"), train_recipe(frozen, tmp_path / "second")["final"]
    assert after == pytest.approx(before, rel=1e-5)
    other = change(find_recipe("bert-tiny"), [*settings, f"model.path={theirs}", "model.hidden_size=32"])
    with pytest.raises(InputError, match=r"model.hidden_size: 16 there, 32 here; they must be the same"):
        train_recipe(other, tmp_path / "third")
    without = change(find_recipe("bert-tiny"), [*settings, "data.objective=full_sentences"])
    train_recipe(without, tmp_path / "without")
    mixed = change(find_recipe("bert-tiny"), [*settings, f"model.path={tmp_path / 'without' / 'model'}"])
    with pytest.raises(InputError, match="was trained without a relation of sentences"):
        train_recipe(mixed, tmp_path / "fourth")


def test_the_answers_of_a_run_are_a_file_that_scores_the_same(shards: Path, tmp_path: Path) -> None:
    train_recipe(change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}"]), tmp_path / "text")
    settings = ["reference.num_examples=32", "reference.num_epochs=null", "phases.0.sequence_length=64"]
    settings += [f"model.path={tmp_path / 'text'}", "engine.num_evals=1", "data.stride=24"]
    train_recipe(change(find_recipe("squad"), settings), tmp_path / "run")
    asked = load_builtin()[:12]
    file = tmp_path / "dev.json"
    paragraphs = [
        {
            "context": each.context,
            "qas": [
                {
                    "id": each.id,
                    "question": each.question,
                    "answers": [{"text": answer.text, "answer_start": answer.start} for answer in each.answers],
                }
            ],
        }
        for each in asked
    ]
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    scores = evaluate_run(tmp_path / "run", file)
    answers = read_predictions(tmp_path / "run" / "predictions.json")
    assert set(answers) == {each.id for each in asked}
    official = score(answers, asked)
    assert scores == {name: official[name] for name in ("exact_match", "f1")}  # type: ignore[literal-required]
