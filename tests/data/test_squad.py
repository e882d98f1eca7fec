import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anybatch.data.squad import Answer, Question, load_builtin, parse_questions, read_questions, split_by_article
from anybatch.errors import InputError

CONTEXT = "Ångström was born in Sweden. He died in Sweden."
GOOD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Anders Ångström",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "q1", "question": "Who?", "answers": [{"text": "Ångström", "answer_start": 0}]},
                        {
                            "id": "q2",
                            "question": "Where?",
                            "answers": [
                                {"text": "Sweden", "answer_start": 40},
                                {"text": "in Sweden", "answer_start": 18},
                            ],
                        },
                    ],
                }
            ],
        }
    ],
}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_questions_are_read_in_order(tmp_path: Path) -> None:
    assert read_questions(write(tmp_path / "a.json", GOOD)) == [
        Question("q1", "Who?", CONTEXT, (Answer("Ångström", 0),), "Anders Ångström"),
        Question("q2", "Where?", CONTEXT, (Answer("Sweden", 40), Answer("in Sweden", 18)), "Anders Ångström"),
    ]


def test_a_question_may_be_marked_as_having_no_answer(tmp_path: Path) -> None:
    value = copy.deepcopy(GOOD)
    first, second = value["data"][0]["paragraphs"][0]["qas"]
    first["is_impossible"] = False
    second |= {"is_impossible": True, "answers": [], "plausible_answers": [{"text": "Sweden", "answer_start": 40}]}
    assert [len(question.answers) for question in read_questions(write(tmp_path / "a.json", value))] == [1, 0]


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets, or for None deletes, the field at a dotted path."""

    def change(root: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            root = root[part]
        if value is None:
            del root[last]
        else:
            root[last] = value

    return change


PARAGRAPH = "data.0.paragraphs.0"
ANSWER = f"{PARAGRAPH}.qas.1.answers.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("data", None), "a.json: has no 'data'"),
        (changed("data", {}), "a.json: 'data' must be a list, not an object"),
        (changed("data", []), "a.json: there is no question in it"),
        (changed("data.0", 3), r"a.json: data\[0\]: must be a JSON object, not a number"),
        (changed("data.0.title", 3), r"data\[0\]: 'title' must be a string, not a number"),
        (changed("data.0.paragraphs", None), r"data\[0\]: has no 'paragraphs'"),
        (changed(f"{PARAGRAPH}.context", None), r"data\[0\].paragraphs\[0\]: has no 'context'"),
        (changed(f"{PARAGRAPH}.context", " \n"), r"data\[0\].paragraphs\[0\]: 'context' is empty"),
        (changed(f"{PARAGRAPH}.context", "x \ud800"), "'context' holds half of a surrogate pair"),
        (changed(f"{PARAGRAPH}.qas", None), r"paragraphs\[0\]: has no 'qas'"),
        (changed(f"{PARAGRAPH}.qas.1.id", None), r"paragraphs\[0\].qas\[1\]: has no 'id'"),
        (changed(f"{PARAGRAPH}.qas.1.id", "q1"), "question 'q1': this id occurs twice"),
        (changed(f"{PARAGRAPH}.qas.1.question", ""), "question 'q2': 'question' is empty"),
        (changed(f"{PARAGRAPH}.qas.1.answers", []), r"question 'q2': has no answer; .*\"is_impossible\": true"),
        (changed(f"{PARAGRAPH}.qas.1.is_impossible", True), "question 'q2': is marked is_impossible, and yet has 2"),
        (changed(f"{PARAGRAPH}.qas.1.is_impossible", "no"), "'is_impossible' must be true or false, not a string"),
        (changed(f"{ANSWER}.text", ""), r"question 'q2': answers\[0\]: 'text' is empty"),
        (
            changed(f"{ANSWER}.answer_start", 39),
            r"answers\[0\]: 'Sweden' does not stand at answer_start 39 .* ' Swede' does",
        ),
        (changed(f"{ANSWER}.answer_start", 1000), "does not stand at answer_start 1000"),
        (changed(f"{ANSWER}.answer_start", -7), "does not stand at answer_start -7"),
        (changed(f"{ANSWER}.answer_start", True), "'answer_start' must be a whole number, not true or false"),
        (changed(f"{ANSWER}.answer_start", "40"), "'answer_start' must be a whole number, not a string"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    value = copy.deepcopy(GOOD)
    change(value)
    with pytest.raises(InputError, match=message) as caught:
        read_questions(write(tmp_path / "a.json", value))
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"data": [}\n')
    with pytest.raises(InputError, match=r"a.json:2: not valid JSON"):
        read_questions(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        read_questions(tmp_path / "b.json")
    with pytest.raises(InputError, match="is a folder"):
        read_questions(tmp_path)
    with pytest.raises(InputError, match="must be a JSON object, not a list"):
        parse_questions([], "a.json")


def test_the_questions_of_the_package() -> None:
    questions = load_builtin()
    assert len(questions) >= 300
    assert len({question.context for question in questions}) >= 60


def test_articles_are_held_out_whole() -> None:
    questions = [Question(str(n), "?", "x", (Answer("x", 0),), f"article {n // 3}") for n in range(33)]
    training, held_out = split_by_article(questions, 4)
    assert {question.title for question in held_out} == {"article 3", "article 7"}
    assert sorted([*training, *held_out], key=lambda question: int(question.id)) == questions
    for every in (1, 12):
        with pytest.raises(
            InputError,
            match=rf"data.held_out_every = {every}: every {every}-th article .* of 11; it must be at least 2",
        ):
            split_by_article(questions, every)


def test_a_real_data_set(shared_data: Path) -> None:
    assert len(read_questions(shared_data / "squad" / "dev.json")) == 1212
