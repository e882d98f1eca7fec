"""Every kind of pretraining trains, ends with scores, and is scored the same again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anybatch.data.prepare import Kind, prepare, tokenizer_of
from anybatch.data.squad import Question, load_builtin, read_questions
from anybatch.errors import InputError
from anybatch.evaluation.squad_score import normalize, read_predictions, score
from anybatch.recipes import change, evaluate_run, find_recipe, questions, task, train_recipe

SMALL = ["reference.num_examples=32", "engine.num_evals=1", "data.num_held_out=16"]
TINY_BERT = ["model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "phases.0.sequence_length=32"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "shards"
    texts = [f"Document {number} begins here. It has a second sentence, and a third. " * 4 for number in range(60)]
    prepare(lambda: texts, out, vocabulary_size=300)
    return out


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        (["data.objective=full_sentences", "data.packed=true", "data.short_seq_prob=0.5"], {"mlm"}),
        (["data.objective=sentence_order", "data.whole_words=true"], {"mlm", "sop"}),
        (["data.packed=true", "data.short_seq_prob=0.5", "phases.0.max_predictions=3"], {"mlm", "nsp"}),
    ],
)
def test_objectives_and_packing(shards: Path, tmp_path: Path, settings: list[str], losses: set[str]) -> None:
    recipe = change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}", *settings])
    result = train_recipe(recipe, tmp_path / "run")
    assert {name.removesuffix("_loss") for name in result["final"] if name.endswith("_loss")} == losses
    again = evaluate_run(tmp_path / "run")
    assert again == pytest.approx(result["final"], rel=1e-5)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes no numbers, in the place of a GPU."""
    for module in (task, questions):
        monkeypatch.setattr(module, "local_device", lambda: torch.device("meta"))


@pytest.mark.parametrize("name", ["bert-tiny", "gpt2-tiny", "digits-lenet"])
def test_a_finished_run_is_evaluated_on_the_device_that_is_there(
    shards: Path, tmp_path: Path, elsewhere: None, name: str
) -> None:
    small = [*SMALL[:-1], "model.hidden_size=16", "phases.0.sequence_length=32", f"data.path={shards}", SMALL[-1]]
    settings = ["reference.num_epochs=1", "engine.num_evals=1"] if name == "digits-lenet" else small
    train_recipe(change(find_recipe(name), settings), tmp_path / "run")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        evaluate_run(tmp_path / "run")


def test_packing_changes_no_result(shards: Path, tmp_path: Path) -> None:
    finals = []
    for packed in ("true", "false"):
        settings = [*SMALL, *TINY_BERT, f"data.path={shards}", "data.short_seq_prob=0.7", f"data.packed={packed}"]
        finals.append(train_recipe(change(find_recipe("bert-tiny"), settings), tmp_path / packed)["final"])
    assert finals[0] == pytest.approx(finals[1], rel=1e-4)


def test_gpt_trains_on_the_same_shards(shards: Path, tmp_path: Path) -> None:
    import math

    settings = [*SMALL, "model.hidden_size=16", "phases.0.sequence_length=32", f"data.path={shards}"]
    result = train_recipe(change(find_recipe("gpt2-tiny"), settings), tmp_path / "run")
    assert result["final"]["perplexity"] == pytest.approx(math.exp(result["final"]["loss"]))
    sample = json.loads((tmp_path / "run" / "sample.json").read_text())
    assert sample["start"]
    assert len(sample["text"].split()) > 20
    assert evaluate_run(tmp_path / "run") == pytest.approx(result["final"], rel=1e-5)
    with pytest.raises(InputError, match=r"its task is (pretraining|causal|images), which answers no questions"):
        evaluate_run(tmp_path / "run", tmp_path / "dev.json")


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("recipe_name", ["gpt2-tiny", "bert-tiny"])
def test_small_vocabularies_train_and_transformers_reads_the_exported_ones(
    tmp_path: Path, kind: Kind, recipe_name: str
) -> None:
    from transformers import AutoTokenizer

    texts = [f"Document {number} begins here. It has a second sentence, and a third. " * 4 for number in range(60)]
    prepare(lambda: texts, tmp_path / "shards", tokenizer=kind)
    settings = [
        *SMALL, *TINY_BERT, f"data.path={tmp_path / 'shards'}", f"data.tokenizer={kind}", "phases.0.batch_size=8",
    ]  # fmt: skip
    result = train_recipe(change(find_recipe(recipe_name), settings), tmp_path / "run")
    assert 0 < result["context_free_loss"] < result["final"]["loss"] < 7
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "run" / "model"), tokenizer_of(tmp_path / "shards")
    for text in ("It has a second,  third  .", "Ça va 日本?"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, add_special_tokens=False).ids
    ids = ours.encode("it has a second , third .", add_special_tokens=False).ids
    assert theirs.decode(ids) == ours.decode(ids) == "it has a second , third ."


def test_a_recipe_s_kind_of_vocabulary_is_that_of_its_text(shards: Path, tmp_path: Path) -> None:
    recipe = change(find_recipe("gpt2-tiny"), [*SMALL, f"data.path={shards}", "data.tokenizer=bytes"])
    with pytest.raises(InputError, match=r"data.tokenizer = 'bytes': .*shards has wordpiece; .* --tokenizer bytes, or"):
        train_recipe(recipe, tmp_path / "run")


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


@pytest.mark.parametrize("pre_norm", ["true", "false"])
def test_the_answers_of_a_run_are_files_that_score_the_same(shards: Path, tmp_path: Path, pre_norm: str) -> None:
    train_recipe(
        change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}", f"model.pre_norm={pre_norm}"]),
        tmp_path / "text",
    )
    asked = load_builtin()[:12]
    file = write_questions(asked, tmp_path / "dev.json")
    train_recipe(change(find_recipe("squad"), [*QUICK_ANSWERS, f"model.path={tmp_path / 'text'}"]), tmp_path / "run")
    scores = evaluate_run(tmp_path / "run", file)
    answers = read_predictions(tmp_path / "run" / "predictions.json")
    assert set(answers) == {each.id for each in asked}
    official = score(answers, read_questions(file))
    assert scores == {name: value for name, value in official.items() if name.endswith(("exact_match", "f1"))}
    ranked = json.loads((tmp_path / "run" / "nbest_predictions.json").read_text())
    assert {name: each[0]["text"] for name, each in ranked.items()} == answers
    assert all(len(each) == 20 and all(answer["text"] for answer in each) for each in ranked.values())
    assert not (tmp_path / "run" / "null_odds.json").exists()
    with pytest.raises(InputError, match="answers every question, so that a null threshold has no meaning"):
        evaluate_run(tmp_path / "run", file, 0.0)
    file = write_questions([*asked, Question("none", "Why?", asked[0].context, (), "t")], file)
    with pytest.raises(InputError, match=r"dev.json: question 'none': has no answer .* squad-v2"):
        evaluate_run(tmp_path / "run", file)


def test_questions_may_be_left_unanswered(shards: Path, tmp_path: Path) -> None:
    train_recipe(change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}"]), tmp_path / "text")
    builtin = load_builtin()
    asked = [
        replace(each, answers=() if number % 2 else each.answers, title=str(number // 8))
        for number, each in enumerate(builtin[:80])
    ]
    file = write_questions(asked, tmp_path / "train.json")
    settings = [*QUICK_ANSWERS, f"model.path={tmp_path / 'text'}", f"data.path={file}", "optimizer.lr=0.01"]
    final = train_recipe(change(find_recipe("squad-v2"), settings), tmp_path / "run")["final"]
    assert {"has_answer_f1", "no_answer_f1", "f1"} < set(final)
    for threshold, left in ((1e9, 0), (-1e9, 80)):
        scores = evaluate_run(tmp_path / "run", file, threshold)
        answers = read_predictions(tmp_path / "run" / "predictions.json")
        assert list(answers.values()).count("") == left
        # An answer of punctuation alone counts as none.
        wordless = sum(not normalize(answers[each.id]) for each in asked if not each.answers)
        assert scores["no_answer_f1"] == pytest.approx(100 * wordless / 40)
        assert scores["f1"] == pytest.approx((scores["has_answer_f1"] + scores["no_answer_f1"]) / 2)
    ranked = json.loads((tmp_path / "run" / "nbest_predictions.json").read_text())
    odds = json.loads((tmp_path / "run" / "null_odds.json").read_text())
    assert all("" in [answer["text"] for answer in each] for each in ranked.values())
    middle = sorted(odds.values())[40]
    evaluate_run(tmp_path / "run", file, middle)
    answers = read_predictions(tmp_path / "run" / "predictions.json")
    assert {name for name, text in answers.items() if not text} == {name for name, odd in odds.items() if odd > middle}
    with pytest.raises(InputError, match=r"train.json: question .* has no answer \(SQuAD v2.0\), and squad answers"):
        train_recipe(change(find_recipe("squad"), settings), tmp_path / "v1")


QUICK_ANSWERS = [
    "reference.num_examples=32", "reference.num_epochs=null", "phases.0.sequence_length=64", "engine.num_evals=1",
    "data.stride=24",
]  # fmt: skip


def write_questions(asked: list[Question], file: Path) -> Path:
    """A file in the official layout, articles by title."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for each in asked:
        answers = [{"text": answer.text, "answer_start": answer.start} for answer in each.answers]
        item = {"id": each.id, "question": each.question, "answers": answers, "is_impossible": not answers}
        articles.setdefault(each.title, []).append({"context": each.context, "qas": [item]})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    file.write_text(json.dumps({"version": "v2.0", "data": data}))
    return file


def test_a_damaged_model_of_a_run_is_refused_by_all_who_read_it(shards: Path, tmp_path: Path) -> None:
    tiny = change(find_recipe("bert-tiny"), [*SMALL, *TINY_BERT, f"data.path={shards}"])
    train_recipe(tiny, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.safetensors"
    whole = file.read_bytes()
    content = bytearray(whole)
    content[-1000] ^= 1
    squad = find_recipe("squad-demo")
    for damage, message in (
        (bytes(content), "model.safetensors: damaged: its SHA-256"),
        (None, "no such file"),
    ):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(InputError, match=message):
            evaluate_run(tmp_path / "run")
        for recipe, path in ((squad, "run"), (squad, "run/model"), (tiny, "run/model")):
            with pytest.raises(InputError, match=message):
                train_recipe(change(recipe, [f"model.path={tmp_path / path}"]), tmp_path / "next")
    file.write_bytes(whole)
    evaluate_run(tmp_path / "run")
    result = tmp_path / "run" / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "model_files": ["model.safetensors"]}))
    with pytest.raises(InputError, match=r"result.json: damaged: model_files must be an object"):
        evaluate_run(tmp_path / "run")
