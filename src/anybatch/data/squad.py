"""Questions whose answers are spans of a passage, in SQuAD's layout; spans.py makes examples of them.

Sources: Rajpurkar et al. 2016, arXiv 1606.05250 (v1.1); Rajpurkar, Jia, Liang 2018, arXiv 1806.03822 (v2.0, in which
the passage leaves some questions unanswered).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import json_kind, read_json


@dataclass(frozen=True)
class Answer:
    """context[start : start + len(text)] == text."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question, its passage, and the right answers; `title` is the article's.

    No answers: the passage does not answer it. `of_v2`: its file is SQuAD v2.0, in which a question may have no
    answer.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    title: str
    of_v2: bool = False


def read_questions(path: Path) -> list[Question]:
    """Reads the questions in a file, in order. As in v2.0, "is_impossible": true marks a question without an answer.

    A file is v2.0 if its "version" is, or if a question in it has "is_impossible", true or false.

    Raises:
        InputError: broken JSON, a missing field, an empty passage or question, no answers without the mark or some
            with it, an answer that is not at its place, or an id used twice; with the file and the article, passage or
            question.
    """
    return parse_questions(read_json(path), str(path))


def load_builtin() -> list[Question]:
    """Returns the questions that come with the package."""
    resource = files("anybatch.data") / "questions" / "questions.json"
    return read_questions(Path(str(resource)))


def parse_questions(value: Any, where: str) -> list[Question]:
    """Parses the questions in the JSON value of a file; `where` names it in messages."""
    questions: list[Question] = []
    seen: set[str] = set()
    for i, article in enumerate(_field(value, "data", list, where)):
        place = f"{where}: data[{i}]"
        title = _field(article, "title", str, place) if "title" in _object(article, place) else str(i)
        for j, paragraph in enumerate(_field(article, "paragraphs", list, place)):
            passage = f"{place}.paragraphs[{j}]"
            context = _text(paragraph, "context", passage)
            for k, item in enumerate(_field(paragraph, "qas", list, passage)):
                question = _question(item, context, title, f"{passage}.qas[{k}]", where)
                if question.id in seen:
                    raise InputError(f"{where}: question {question.id!r}: this id occurs twice in the file")
                seen.add(question.id)
                questions.append(question)
    if not questions:
        raise InputError(f"{where}: there is no question in it")
    of_v2 = "2.0" in str(value.get("version")) or any(question.of_v2 for question in questions)
    return [replace(question, of_v2=True) for question in questions] if of_v2 else questions


def split_by_article(questions: Sequence[Question], every: int) -> tuple[list[Question], list[Question]]:
    """Returns (training, held out): the questions of every `every`-th article, in order of appearance, are held out.

    Raises:
        InputError: `every` is below 2, or there are fewer than `every` articles.
    """
    titles = {title: number for number, title in enumerate(dict.fromkeys(question.title for question in questions))}
    if not 2 <= every <= len(titles):
        raise InputError(
            f"data.held_out_every = {every}: every {every}-th article is to be held out of {len(titles)}; "
            "it must be at least 2 and at most their number: give more articles, or lower it"
        )
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in questions:
        parts[titles[question.title] % every == every - 1].append(question)
    return parts


def _question(item: Any, context: str, title: str, place: str, where: str) -> Question:
    identifier = _text(item, "id", place)
    place = f"{where}: question {identifier!r}"
    question = _text(item, "question", place)
    answers = []
    for number, answer in enumerate(_field(item, "answers", list, place)):
        spot = f"{place}: answers[{number}]"
        text, start = _text(answer, "text", spot), _field(answer, "answer_start", int, spot)
        if start < 0 or context[start : start + len(text)] != text:
            found = context[max(start, 0) : max(start, 0) + len(text)]
            raise InputError(f"{spot}: {text!r} does not stand at answer_start {start} of the passage, {found!r} does")
        answers.append(Answer(text, start))
    impossible = "is_impossible" in item and _field(item, "is_impossible", bool, place)
    if impossible and answers:
        raise InputError(f"{place}: is marked is_impossible, and yet has {len(answers)} answers; drop one or the other")
    if not answers and not impossible:
        raise InputError(f'{place}: has no answer; give one, or mark it "is_impossible": true as SQuAD v2.0 does')
    return Question(identifier, question, context, tuple(answers), title, "is_impossible" in item)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{place}: must be a JSON object, not {json_kind(value)}")
    return value


_KINDS = {list: "a list", str: "a string", int: "a whole number", bool: "true or false"}


def _field(value: Any, name: str, kind: type, place: str) -> Any:
    if name not in _object(value, place):
        raise InputError(f"{place}: has no {name!r}")
    found = value[name]
    if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
        raise InputError(f"{place}: {name!r} must be {_KINDS[kind]}, not {json_kind(found)}")
    return found


def _text(value: Any, name: str, place: str) -> str:
    text: str = _field(value, name, str, place)
    if not text.strip():
        raise InputError(f"{place}: {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: {name!r} holds half of a surrogate pair, which is not a character") from None
    return text
