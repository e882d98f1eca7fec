"""Exact match and F1, by the rules of the official SQuAD evaluations.

Both sides are lower-cased, stripped of punctuation and of the articles a, an, the, and split at white space; each
question takes the best of its reference answers; a question without a prediction counts 0; scores are percentages.

In a file of v2.0 (see squad.py), or if some question has no answer, the rules of v2.0 hold: the right answer to such a
question is "", and an answer with no word left counts as none, on either side.

Sources: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; Rajpurkar, Jia, Liang 2018, arXiv 1806.03822, and the
official evaluate-v2.0.py.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anybatch.data.squad import Question
from anybatch.errors import InputError
from anybatch.files import json_kind, read_json

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Returns the part of an answer that is compared.

    >>> normalize("The Cat's  pyjamas!")
    'cats pyjamas'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """Returns 1.0 if the two are the same after `normalize`, otherwise 0.0."""
    return float(normalize(prediction) == normalize(reference))


def f1(prediction: str, reference: str) -> float:
    """Returns the harmonic mean of precision and recall over the words of the two, as bags, after `normalize`."""
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0


def score(predictions: Mapping[str, str], questions: Sequence[Question]) -> dict[str, float]:
    """Scores `predictions`, question id to text; ignores predictions for other ids.

    Returns:
        exact_match and f1, in percent of all `total` questions, `missing` of which have no prediction. By the rules of
        v2.0, also the same for questions with and without an answer, as has_answer_* and no_answer_*.
    """
    if not questions:
        raise InputError("there is no question to score")
    if all(question.answers and not question.of_v2 for question in questions):
        return _summary(predictions, questions, _by_v1)
    parts = {
        "has_answer": [question for question in questions if question.answers],
        "no_answer": [question for question in questions if not question.answers],
    }
    scores = _summary(predictions, questions, _by_v2)
    for name, part in parts.items():
        if part:
            scores |= {f"{name}_{key}": value for key, value in _summary(predictions, part, _by_v2).items()}
    return scores


def _summary(
    predictions: Mapping[str, str],
    questions: Sequence[Question],
    rule: Callable[[str, Sequence[str]], tuple[float, float]],
) -> dict[str, float]:
    answered = [question for question in questions if question.id in predictions]
    found = [rule(predictions[each.id], [answer.text for answer in each.answers]) for each in answered]
    total = len(questions)
    return {
        "exact_match": 100 * sum(match for match, _ in found) / total,
        "f1": 100 * sum(overlap for _, overlap in found) / total,
        "total": total,
        "missing": total - len(answered),
    }


def _by_v1(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    return max(exact_match(prediction, each) for each in references), max(f1(prediction, each) for each in references)


def _by_v2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    meant = [each for each in references if normalize(each)] or [""]
    if normalize(prediction) and meant != [""]:
        return _by_v1(prediction, meant)
    # No answer against no answer is right; no answer against a wrong one has no overlap.
    right = max(exact_match(prediction, each) for each in meant)
    return right, right


def read_predictions(path: Path) -> dict[str, str]:
    """Reads a file of predictions: one JSON object, question id to answer.

    Raises:
        InputError: broken JSON, or another shape; with the file and the id.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be a JSON object, question id to answer, not {json_kind(value)}")
    for identifier, text in value.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the answer to {identifier!r} must be a string, not {json_kind(text)}")
    return value
