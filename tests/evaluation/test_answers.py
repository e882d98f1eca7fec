"""From scores of windows to answers, against trying every span."""

import math
from typing import Any

import pytest
import torch
from support.asking import ask, whole
from tokenizers import Tokenizer

from anybatch.data.spans import QuestionSource
from anybatch.data.squad import Question
from anybatch.errors import InputError
from anybatch.evaluation.answers import decode


def all_spans(
    source: QuestionSource, start: Any, end: Any, longest: int, tokenizer: Tokenizer
) -> dict[str, list[tuple[float, str]]]:
    """Every question's spans, best first, without NumPy: every window, every start, every end."""
    inputs = whole(source)
    found: dict[str, list[tuple[float, str]]] = {}
    window = 0
    for question in source.questions:
        encoding = tokenizer.encode(question.context, add_special_tokens=False)
        spans: list[tuple[float, str]] = []
        offset = 0
        while True:
            ids = inputs["input_ids"][window].tolist()
            low, length = ids.index(3) + 1, int(inputs["attention_mask"][window].sum())
            for first in range(low, length - 1):
                for last in range(first, min(first + longest, length - 1)):
                    begin = encoding.offsets[first - low + offset][0]
                    text = question.context[begin : encoding.offsets[last - low + offset][1]]
                    spans.append((start[window][first] + end[window][last], text))
            window += 1
            if offset + length - 1 - low >= len(encoding):
                break
            offset += 7
        found[question.id] = sorted(spans, key=lambda span: -span[0])
    assert window == source.num_examples
    return found


def random_logits(source: QuestionSource, seed: int) -> torch.Tensor:
    shape = (2, source.num_examples, source.max_length)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("longest", [1, 4, 100])
def test_the_best_spans_are_found(questions: list[Question], words: Tokenizer, longest: int) -> None:
    source = QuestionSource(questions[:6], words, 48, 7, seed=0)
    for seed in range(3):
        logits = random_logits(source, seed)
        expected = all_spans(source, *logits.tolist(), longest, words)
        best = decode(source, *logits, max_answer_length=longest)
        assert {name: each.answer(None) for name, each in best.items()} == {
            name: spans[0][1] for name, spans in expected.items()
        }
        for name, found in decode(source, *logits, max_answer_length=longest, count=5).items():
            texts = list(dict.fromkeys(text for _, text in expected[name]))
            assert [each.text for each in found.spans] == texts[:5]
            scores = [next(score for score, text in expected[name] if text == each) for each in texts[:5]]
            assert [each.score for each in found.spans] == pytest.approx(scores, rel=1e-6)


def test_no_answer_scores_as_the_first_token_of_the_window_that_believes_in_it_least(words: Tokenizer) -> None:
    source = QuestionSource([ask("One of the two is it. " * 5)], words, 32, 8, seed=0)
    assert source.num_examples > 2
    logits = random_logits(source, 0)
    (found,) = decode(source, *logits).values()
    assert found.none.score == pytest.approx((logits[0, :, 0] + logits[1, :, 0]).min().item(), rel=1e-6)
    assert found.null_odds == pytest.approx(found.none.score - found.spans[0].score)
    for threshold, answer in (
        (None, found.spans[0].text),
        (found.null_odds + 1e-3, found.spans[0].text),
        (found.null_odds - 1e-3, ""),
        (-math.inf, ""),
    ):
        assert found.answer(threshold) == answer


def test_the_list_is_by_score_and_its_probabilities_are_a_softmax(words: Tokenizer) -> None:
    source = QuestionSource([ask("One of the two is it.")], words, 32, 8, seed=0)
    start, end = torch.zeros(2, 1, 32)
    place = 1 + whole(source)["input_ids"][0].tolist().index(3)
    start[0, place], end[0, place + 1] = 3.0, 1.0
    start[0, 0] = end[0, 0] = 1.75
    (found,) = decode(source, start, end, count=3).values()
    ranked = found.ranked(with_none=True)
    assert [(each["text"], each["start_logit"] + each["end_logit"]) for each in ranked[:3]] == [
        ("One of", 4.0), ("", 3.5), ("One", 3.0),
    ]  # fmt: skip
    weights = [math.exp(each["start_logit"] + each["end_logit"]) for each in ranked]
    assert [each["probability"] for each in ranked] == pytest.approx([weight / sum(weights) for weight in weights])
    without = found.ranked(with_none=False)
    assert [each["text"] for each in without] == [each["text"] for each in ranked if each["text"]]
    assert sum(each["probability"] for each in without) == pytest.approx(1)


def test_a_text_stands_once_in_the_list(words: Tokenizer) -> None:
    source = QuestionSource([ask("it it it it")], words, 32, 8, seed=0)
    (found,) = decode(source, *torch.zeros(2, 1, 32), count=20).values()
    assert [each.text for each in found.spans] == ["it", "it it", "it it it", "it it it it"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_never_wins(words: Tokenizer, value: float) -> None:
    source = QuestionSource([ask("One of the two is it.", (0, 3))], words, 32, 8, seed=0)
    start, end = torch.full((2, 1, 32), value)
    assert decode(source, start, end)["q"].answer(None) != ""
    place = int(whole(source)["start_positions"][0])
    start[0, place + 1] = end[0, place + 1] = -50.0
    found = decode(source, start, end, count=3)["q"]
    assert found.answer(0.0) == "of"
    assert all(math.isfinite(each["probability"]) for each in found.ranked(with_none=True))


def test_what_cannot_be_decoded_is_named(words: Tokenizer) -> None:
    source = QuestionSource([ask("One.", (0, 3))], words, 32, 8, seed=0)
    with pytest.raises(ValueError, match=r"logits of shape \(2, 32\), \(2, 32\): must be \(1, 32\)"):
        decode(source, torch.zeros(2, 32), torch.zeros(2, 32))
    with pytest.raises(InputError, match="max_answer_length = 0: must be at least 1"):
        decode(source, torch.zeros(1, 32), torch.zeros(1, 32), max_answer_length=0)
    with pytest.raises(InputError, match="n_best = 0: must be at least 1"):
        decode(source, torch.zeros(1, 32), torch.zeros(1, 32), count=0)
