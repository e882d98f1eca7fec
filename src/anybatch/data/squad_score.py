"""Exact match and F1, by the rules of the official SQuAD v1.1 evaluation.

Both sides are lower-cased, stripped of punctuation and of the articles a, an, the, and split at white space; each
question takes the best of its reference answers; a question without a prediction counts 0; scores are percentages.

Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from anybatch.data.squad import Question
from anybatch.errors import InputError
from anybatch.files import read_json

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Scores(TypedDict):
    """`exact_match` and `f1` in percent over all `total` questions, `missing` of which have no prediction."""

    exact_match: float
    f1: float
    total: int
    missing: int


def normalize(text: str) -> str:
    """What is compared of an answer.

    >>> normalize("The Cat's  pyjamas!")
    'cats pyjamas'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where the two are the same after `normalize`, else 0.0."""
    return float(normalize(prediction) == normalize(reference))


def f1(prediction: str, reference: str) -> float:
    """The harmonic mean of precision and recall over the words of the two, as bags, after `normalize`."""
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0


def score(predictions: Mapping[str, str], questions: Sequence[Question]) -> Scores:
    """The scores of `predictions`, question id to text; predictions for other ids are not looked at."""
    matches = overlaps = 0.0
    missing = 0
    for question in questions:
        if question.id not in predictions:
            missing += 1
            continue
        prediction = predictions[question.id]
        matches += max(exact_match(prediction, answer.text) for answer in question.answers)
        overlaps += max(f1(prediction, answer.text) for answer in question.answers)
    total = len(questions)
    if not total:
        raise InputError("there is no question to score")
    return {"exact_match": 100 * matches / total, "f1": 100 * overlaps / total, "total": total, "missing": missing}


def read_predictions(path: Path) -> dict[str, str]:
    """A file of predictions: one JSON object, question id to answer.

    Raises:
        InputError: broken JSON, or another shape; with the file and the id.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the JSON file in it")
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be a JSON object, question id to answer, not a {type(value).__name__}")
    for identifier, text in value.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the answer to {identifier!r} must be a string, not a {type(text).__name__}")
    return value
