import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.squad_oracle import official_scores

from anybatch.data.squad import Answer, Question, parse_questions, read_questions
from anybatch.errors import InputError
from anybatch.evaluation.squad_score import exact_match, f1, normalize, read_predictions, score

TEXT = st.text(alphabet="aAnthe bc.,-'\t1é")


def question(identifier: str, *answers: str) -> Question:
    return Question(identifier, "?", " ".join(answers), tuple(Answer(answer, 0) for answer in answers), "t")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat,\tsat.", "cat sat"),
        ("an A-team", "ateam"),
        ("a.m.", "am"),
        ("the", ""),
        ("theatre another", "theatre another"),
        ("it’s the 1990s", "it’s 1990s"),
        ("U.S.A.", "usa"),
        ("  ", ""),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("prediction", "reference", "match", "overlap"),
    [
        ("the Denver Broncos", "Denver Broncos!", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),
        ("Denver Denver", "Denver Broncos", 0, 1 / 2),
        ("x", "y", 0, 0),
        ("", "y", 0, 0),
        ("the", "an", 1, 0),
    ],
)
def test_one_answer(prediction: str, reference: str, match: float, overlap: float) -> None:
    assert exact_match(prediction, reference) == match
    assert f1(prediction, reference) == pytest.approx(overlap)


def test_each_question_takes_its_best_reference_and_a_missing_one_counts_0() -> None:
    questions = [question("1", "Denver", "Denver Broncos"), question("2", "x"), question("3", "y"), question("4", "z")]
    assert score({"1": "Broncos Denver", "2": "x", "4": "w", "other": "y"}, questions) == {
        "exact_match": 25.0,
        "f1": 50.0,
        "total": 4,
        "missing": 1,
    }
    with pytest.raises(InputError, match="no question"):
        score({}, [])


def test_questions_without_an_answer_are_scored_as_v2_does() -> None:
    """Expected by hand from evaluate-v2.0.py: has answer 0, 1, 2/3, 0 of four; no answer 1, 0, 1 of three."""
    questions = [
        question("left out", "Denver"), question("right", "Denver Broncos"), question("half", "Denver Broncos"),
        question("no words", "the"), question("none"), question("guessed"), question("the"),
    ]  # fmt: skip
    predictions = {
        "left out": "", "right": "the Denver Broncos", "half": "Denver", "no words": "Denver", "none": "",
        "guessed": "Denver", "the": "the",
    }  # fmt: skip
    assert score(predictions, questions) == pytest.approx(
        {
            "exact_match": 100 * 3 / 7, "f1": 100 * (3 + 2 / 3) / 7, "total": 7, "missing": 0,
            "has_answer_exact_match": 100 * 1 / 4, "has_answer_f1": 100 * (1 + 2 / 3) / 4, "has_answer_total": 4,
            "has_answer_missing": 0,
            "no_answer_exact_match": 100 * 2 / 3, "no_answer_f1": 100 * 2 / 3, "no_answer_total": 3,
            "no_answer_missing": 0,
        }
    )  # fmt: skip
    assert score({"no words": "", "x": ""}, [question("no words", "the"), question("x")])["f1"] == 100
    assert score({"both": "", "x": ""}, [question("both", "the", "Denver"), question("x")])["f1"] == 50
    assert set(score({}, [question("x")])) == {
        "exact_match", "f1", "total", "missing",
        "no_answer_exact_match", "no_answer_f1", "no_answer_total", "no_answer_missing",
    }  # fmt: skip
    assert score({}, [question("x")])["no_answer_missing"] == 1, "a missing prediction is not an empty one"


def random_file(draw: random.Random, version: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A file of SQuAD's layout with odd answers, and predictions that are near them."""
    letters = [
        "a",
        "an",
        "the",
        "The",
        " ",
        " ",
        "\t",
        "\u00a0",
        ".",
        "-",
        "_",
        "’",
        "é",
        "e\u0301",
        "a\u0301",
        "1990s",
        "Ⅷ",
        "中",
        "x",
    ]
    texts = ["".join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(8)] + ["the", "A.", "...", "an x"]
    texts = [text for text in texts if text.strip()]
    context = " | ".join(texts)
    items, predictions = [], {}
    for number in range(6):
        golds = draw.sample(texts, k=draw.randint(0 if version == "v2.0" else 1, 3))
        item: dict[str, Any] = {"id": str(number), "question": "?"}
        item["answers"] = [{"text": text, "answer_start": context.index(text)} for text in golds]
        if version == "v2.0":
            item["is_impossible"] = not golds
        items.append(item)
        if draw.random() < 0.9:
            predictions[str(number)] = draw.choice([*golds, *texts, "", " ", "the " + "".join(golds).upper()])
    return {"version": version, "data": [{"paragraphs": [{"context": context, "qas": items}]}]}, predictions


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_odd_records_are_scored_as_the_official_scripts_do(version: str) -> None:
    draw = random.Random(version)
    for _ in range(300):
        value, predictions = random_file(draw, version)
        found = score(predictions, parse_questions(value, "a.json"))
        assert {name: found[name] for name in ("exact_match", "f1")} == pytest.approx(
            official_scores(value, predictions)
        )


def test_a_file_of_v2_is_known_without_a_question_that_has_no_answer() -> None:
    context, answer = "The cat sat.", [{"text": "The", "answer_start": 0}]
    item = {"id": "a", "question": "?", "answers": answer}
    for version, more, expected in (
        ("v2.0", {"is_impossible": False}, 100.0),
        ("v2.0", {}, 100.0),
        (None, {"is_impossible": False}, 100.0),
        ("1.1", {}, 0.0),
        (None, {}, 0.0),
    ):
        value = {"version": version, "data": [{"paragraphs": [{"context": context, "qas": [{**item, **more}]}]}]}
        assert score({"a": ""}, parse_questions(value, "a.json"))["f1"] == expected
        assert official_scores(value, {"a": ""})["f1"] == expected


@given(TEXT, TEXT)
def test_f1_is_symmetric_bounded_and_1_for_a_match(a: str, b: str) -> None:
    assert f1(a, b) == f1(b, a)
    assert 0 <= f1(a, b) <= 1
    assert normalize(normalize(a)) == normalize(a)
    if normalize(a):
        assert f1(a, a) == exact_match(a, a) == 1


@pytest.mark.parametrize("name", ["bert-ensemble", "logistic-regression"])
def test_published_predictions_get_their_scores(shared_data: Path, name: str) -> None:
    folder = shared_data / "squad" / "reference-predictions"
    expected = json.loads((folder / "expected-scores.json").read_text())[name]
    found = score(read_predictions(folder / f"{name}.dev.json"), read_questions(shared_data / "squad" / "dev.json"))
    assert {name: round(float(found[name]), 3) for name in ("exact_match", "f1")} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must be a JSON object, question id to answer, not a list"),
        ('{"a": "x", "b": null}', "the answer to 'b' must be a string, not null"),
        ('{"a":\n}', "predictions.json:2: not valid JSON"),
    ],
)
def test_wrong_predictions_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_predictions(path)
    with pytest.raises(InputError, match="is a folder"):
        read_predictions(tmp_path)
