"""The scores of the official SQuAD evaluations, v1.1 and v2.0, from a file's JSON; no code shared with src.

Source: Rajpurkar et al. 2016 and 2018; the rules of evaluate-v1.1.py and evaluate-v2.0.py. Neither looks at
answer_start, and v2.0 not at is_impossible. A question without a prediction counts as wrong, as in v1.1; v2.0 names it,
and ends with an error.
"""

import string
from collections import Counter
from typing import Any

ARTICLES = {"a", "an", "the"}


class Unscored(Exception):
    """The official script ends with an error."""


def words(answer: str) -> list[str]:
    """Lower-cased, without punctuation; then each whole word that is an article becomes a space."""
    plain = "".join(letter for letter in answer.lower() if letter not in set(string.punctuation))
    # A word, as a regular expression sees it, ends where letters, digits and underscores do, not at white space alone.
    pieces, word = [], ""
    for letter in plain + "\0":
        if letter.isalnum() or letter == "_":
            word += letter
        else:
            pieces += ["" if word in ARTICLES else word, letter]
            if word in ARTICLES:
                pieces.insert(-1, " ")
            word = ""
    return "".join(pieces[:-1]).split()


def f1(one: list[str], other: list[str]) -> float:
    same = sum((Counter(one) & Counter(other)).values())
    return 0.0 if same == 0 else 2 / (len(one) / same + len(other) / same)


def official_scores(value: Any, predictions: dict[str, str]) -> dict[str, float]:
    """exact_match and f1 in percent, by the version that the file says it has."""
    items = [item for article in value["data"] for paragraph in article["paragraphs"] for item in paragraph["qas"]]
    second = "2.0" in str(value.get("version")) or any("is_impossible" in item for item in items)
    exact, overlap = {}, {}
    for item in items:
        golds = [words(answer["text"]) for answer in item["answers"]]
        if item["id"] not in predictions:
            continue
        found = words(predictions[item["id"]])
        if second:
            golds = [gold for gold in golds if gold] or [[]]
        if not golds:
            raise Unscored(f"{item['id']}: no answer in a file of v1.1")
        exact[item["id"]] = max(float(found == gold) for gold in golds)
        overlap[item["id"]] = max(
            float(found == gold) if second and not (found and gold) else f1(found, gold) for gold in golds
        )
    if not items:
        raise Unscored("no question")
    total = len(items)
    return {"exact_match": 100 * sum(exact.values()) / total, "f1": 100 * sum(overlap.values()) / total}
