"""From the scores of windows to answers: the n best spans of each question, and whether to leave it unanswered.

Source: the answers of BERT's authors' code, google-research/bert, run_squad.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from anybatch.data.spans import QuestionSource
from anybatch.errors import InputError

# Replaces a score that is not a number: it loses, but every window still has a span. Twice this score is still finite.
_LOWEST = float(np.finfo(np.float32).min) / 4


@dataclass(frozen=True)
class Candidate:
    """A possible answer, "" for none, with the scores of its first token as start and of its last as end."""

    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True)
class Candidates:
    """The candidates of one question: the best spans, best first, each text once; and the score of no answer."""

    spans: tuple[Candidate, ...]
    none: Candidate

    @property
    def null_odds(self) -> float:
        """Returns how much better no answer scores than the best span."""
        return self.none.score - self.spans[0].score

    def answer(self, null_threshold: float | None) -> str:
        """Returns the best span, or "" if `null_odds` is above the threshold (None: never)."""
        return "" if null_threshold is not None and self.null_odds > null_threshold else self.spans[0].text

    def ranked(self, *, with_none: bool) -> list[dict[str, Any]]:
        """Returns all candidates by score, with the probabilities of a softmax over them, as JSON types."""
        found = sorted([*self.spans, *[self.none][:with_none]], key=lambda each: -each.score)
        weights = np.exp(np.array([each.score for each in found]) - found[0].score)
        return [
            {"text": each.text, "probability": share, "start_logit": each.start_logit, "end_logit": each.end_logit}
            for each, share in zip(found, (weights / weights.sum()).tolist(), strict=True)
        ]


def decode(
    source: QuestionSource,
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    *,
    max_answer_length: int = 30,
    count: int = 1,
) -> dict[str, Candidates]:
    """Returns the best answers to each question, by its id, from the scores of all windows in order, float[N, S] both.

    A span has at most `max_answer_length` tokens of the passage, inside one window. Its score is the sum of the start
    score of its first token and the end score of its last token. Its text is cut from the passage. The score of no
    answer is that of [CLS] as start and end, the smallest over all windows.

    Args:
        count: the largest number of spans kept for each question.

    Raises:
        InputError: `max_answer_length` or `count` is below 1.
    """
    shape = (source.num_examples, source.max_length)
    if start_logits.shape != shape or end_logits.shape != shape:
        raise ValueError(f"logits of shape {tuple(start_logits.shape)}, {tuple(end_logits.shape)}: must be {shape}")
    for name, value in (("max_answer_length", max_answer_length), ("n_best", count)):
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")
    start, end = (
        torch.nan_to_num(logits.float().cpu(), nan=_LOWEST, neginf=_LOWEST).numpy()
        for logits in (start_logits, end_logits)
    )
    first, last = source.passage_columns()
    column = np.arange(source.max_length)
    inside = (column >= first[:, None]) & (column <= last[:, None])
    length = min(max_answer_length, source.max_length)
    # ends[w, s, e]: the score as end of the token e places after s.
    padded = np.pad(np.where(inside, end, -np.inf), ((0, 0), (0, length - 1)), constant_values=-np.inf)
    ends = sliding_window_view(padded, length, axis=1)
    starts = np.where(inside, start, -np.inf)
    bounds = np.searchsorted(source.owners, np.arange(len(source.questions) + 1))
    found = {}
    for number, question in enumerate(source.questions):
        windows = slice(int(bounds[number]), int(bounds[number + 1]))
        spans: dict[str, Candidate] = {}
        for window, place, extra in _best(
            starts[windows, :, None] + ends[windows], count * (windows.stop - windows.start)
        ):
            window += windows.start
            text = source.text(window, place, place + extra)
            spans.setdefault(text, Candidate(text, float(start[window, place]), float(end[window, place + extra])))
            if len(spans) == count:
                break
        least = windows.start + int(np.argmin(start[windows, 0] + end[windows, 0]))
        none = Candidate("", float(start[least, 0]), float(end[least, 0]))
        found[question.id] = Candidates(tuple(spans.values()), none)
    return found


def _best(sums: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Returns the places of the `count` largest finite sums, largest first, int64[count, 3]; ties: the first."""
    flat = sums.ravel()
    count = min(count, int(np.isfinite(flat).sum()))
    bound = np.partition(flat, len(flat) - count)[len(flat) - count]
    places = np.flatnonzero(flat >= bound)
    places = places[np.argsort(-flat[places], kind="stable")]
    return np.stack(np.unravel_index(places, sums.shape), axis=1)
