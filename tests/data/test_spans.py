from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.spans import LONGEST_QUESTION, QuestionSource
from anybatch.data.squad import Answer, Question, load_builtin
from anybatch.errors import InputError

HARD = "“Ångström” (1814–1874), naïve café… 日本 😀 U.S.A.'s $3.50! co\u0301operate\u200bd"


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Two hundred of the package's, each with one answer."""
    return [Question(q.id, q.question, q.context, q.answers[:1], q.title) for q in load_builtin()[:200]]


@pytest.fixture(scope="module")
def words(questions: list[Question]) -> Tokenizer:
    texts = [HARD, *(question.context for question in questions)]
    return vocabulary.train(lambda: texts, 600)


def ask(context: str, *spans: tuple[int, int], question: str = "What is it?", identifier: str = "q") -> Question:
    return Question(identifier, question, context, tuple(Answer(context[a:b], a) for a, b in spans), "t")


def whole(source: QuestionSource, epoch: int = 0) -> dict[str, torch.Tensor]:
    examples = np.arange(source.num_examples)
    return dict(source.batch(np.full_like(examples, epoch), examples).inputs)


def certain(source: QuestionSource, inputs: dict[str, torch.Tensor]) -> dict[str, str]:
    """What is decoded where the model is certain of the targets, and of nothing where they are the [CLS]."""
    rows = torch.arange(source.num_examples)
    start, end = torch.zeros(2, source.num_examples, source.max_length)
    answered = inputs["start_positions"] > 0
    start[rows[answered], inputs["start_positions"][answered]] = 9
    end[rows[answered], inputs["end_positions"][answered]] = 9
    return source.decode(start, end, max_answer_length=source.max_length)


@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (128, 48), (64, 20), (48, 1000)])
def test_targets_decode_to_the_answers(
    questions: list[Question], words: Tokenizer, max_length: int, stride: int
) -> None:
    source = QuestionSource(questions, words, max_length, stride, seed=0)
    inputs = whole(source)
    assert (inputs["start_positions"] <= inputs["end_positions"]).all()
    for name in ("start_positions", "end_positions"):
        pointed_at = inputs["input_ids"].gather(1, inputs[name][:, None])[:, 0]
        assert torch.equal(pointed_at == 2, inputs[name] == 0)
        assert not (pointed_at == 3).any(), "a target is a word of the passage or the [CLS]"
    decoded = certain(source, inputs)
    right = sum(decoded[question.id] == question.answers[0].text for question in questions)
    # An answer over the edge of every window, or one that ends inside a word, cannot be decoded.
    assert right >= (0.99 if stride < 1000 else 0.85) * len(questions)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_span_of_whole_words_comes_back(words: Tokenizer, data: st.DataObject) -> None:
    encoding = words.encode(HARD, add_special_tokens=False)
    first = data.draw(st.integers(0, len(encoding) - 1))
    last = data.draw(st.integers(first, len(encoding) - 1))
    begin, end = encoding.offsets[first][0], encoding.offsets[last][1]
    source = QuestionSource([ask(HARD, (begin, end))], words, 128, 32, seed=0)
    assert source.num_examples == 1
    assert certain(source, whole(source)) == {"q": HARD[begin:end]}


def test_windows_cover_the_passage_in_strides(questions: list[Question], words: Tokenizer) -> None:
    source = QuestionSource(questions[:40], words, 64, 10, seed=0)
    inputs = whole(source)
    shown: dict[int, list[list[int]]] = {}
    number = -1
    asked: list[int] = []
    for ids, types, mask in zip(
        inputs["input_ids"].tolist(), inputs["token_type_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True
    ):
        length = sum(mask)
        middle = ids.index(3)
        assert mask == [1] * length + [0] * (64 - length)
        assert types == [0] * (middle + 1) + [1] * (length - middle - 1) + [0] * (64 - length)
        assert (ids[0], ids[length - 1], set(ids[length:])) == (2, 3, set() if length == 64 else {0})
        window = ids[middle + 1 : length - 1]
        context = words.encode(questions[max(number, 0)].context, add_special_tokens=False).ids
        if ids[1:middle] != asked or window == context[: len(window)]:
            number, asked = number + 1, ids[1:middle]
            assert asked == words.encode(questions[number].question, add_special_tokens=False).ids[: len(asked)]
        shown.setdefault(number, []).append(window)
    assert list(shown) == list(range(40))
    for number, windows in shown.items():
        context = words.encode(questions[number].context, add_special_tokens=False).ids
        for place, window in enumerate(windows):
            assert window == context[10 * place : 10 * place + len(window)]
        assert 10 * (len(windows) - 1) + len(windows[-1]) == len(context)


def test_a_long_question_is_cut(words: Tokenizer) -> None:
    for max_length, held in ((256, LONGEST_QUESTION), (40, 18)):
        source = QuestionSource([ask("It is here.", (0, 2), question="what is " * 100)], words, max_length, 8, seed=0)
        assert whole(source)["input_ids"][0].tolist().index(3) == held + 1


def test_an_answer_outside_the_window_points_at_the_first_token(words: Tokenizer) -> None:
    context = "There is a long way to the end of it. " * 10 + "Finally"
    source = QuestionSource([ask(context, (len(context) - 7, len(context)))], words, 48, 16, seed=0)
    inputs = whole(source)
    assert source.num_examples > 3
    assert not inputs["start_positions"][:-2].any()
    assert not inputs["end_positions"][:-2].any()
    assert inputs["start_positions"][-1] > 0


def test_answers_are_drawn_evenly_and_by_example(words: Tokenizer) -> None:
    context = "One of the two is it."
    source = QuestionSource([ask(context, (0, 3), (11, 14), (0, 3))], words, 32, 8, seed=0)
    epochs = np.arange(3000)
    drawn = source.batch(epochs, np.zeros(3000, dtype=np.int64)).inputs["start_positions"]
    values, counts = drawn.unique(return_counts=True)
    assert len(values) == 2
    assert abs(int(counts[0]) - 2000) < 5 * np.sqrt(3000 * 2 / 9)
    assert torch.equal(drawn[5:9], source.batch(epochs[5:9], np.zeros(4, dtype=np.int64)).inputs["start_positions"])


def test_training_and_prediction_see_the_same(questions: list[Question], words: Tokenizer) -> None:
    source = QuestionSource(questions[:20], words, 64, 20, seed=0)
    inputs = whole(source)
    parts = [source.windows(start, 7) for start in range(0, source.num_examples, 7)]
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(torch.cat([part[name] for part in parts]), inputs[name])
    batch = source.batch(np.zeros(3, dtype=np.int64), np.arange(3))
    assert (batch.num_targets, batch.num_examples) == ({"span": 3}, 3)


def best_by_trying(source: QuestionSource, start: Any, end: Any, longest: int, tokenizer: Tokenizer) -> dict[str, str]:
    """`decode` without NumPy: every window, every start, every end."""
    inputs = whole(source)
    answers: dict[str, str] = {}
    window = 0
    for question in source.questions:
        encoding = tokenizer.encode(question.context, add_special_tokens=False)
        best = -np.inf
        offset = 0
        while True:
            ids = inputs["input_ids"][window].tolist()
            low, length = ids.index(3) + 1, int(inputs["attention_mask"][window].sum())
            for first in range(low, length - 1):
                for last in range(first, min(first + longest, length - 1)):
                    if start[window][first] + end[window][last] > best:
                        best = start[window][first] + end[window][last]
                        begin = encoding.offsets[first - low + offset][0]
                        answers[question.id] = question.context[begin : encoding.offsets[last - low + offset][1]]
            window += 1
            if offset + length - 1 - low >= len(encoding):
                break
            offset += 7
    assert window == source.num_examples
    return answers


@pytest.mark.parametrize("longest", [1, 4, 100])
def test_the_best_span_is_found(questions: list[Question], words: Tokenizer, longest: int) -> None:
    source = QuestionSource(questions[:6], words, 48, 7, seed=0)
    for seed in range(4):
        logits = torch.randn(2, source.num_examples, 48, generator=torch.Generator().manual_seed(seed))
        expected = best_by_trying(source, *logits.tolist(), longest, words)
        assert source.decode(*logits, max_answer_length=longest) == expected


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_never_wins(words: Tokenizer, value: float) -> None:
    source = QuestionSource([ask("One of the two is it.", (0, 3))], words, 32, 8, seed=0)
    start, end = torch.full((2, 1, 32), value)
    assert source.decode(start, end)["q"] != ""
    place = int(whole(source)["start_positions"][0])
    start[0, place + 1] = end[0, place + 1] = -50.0
    assert source.decode(start, end)["q"] == "of"


def test_logits_of_another_shape_are_refused(words: Tokenizer) -> None:
    source = QuestionSource([ask("One.", (0, 3))], words, 32, 8, seed=0)
    with pytest.raises(ValueError, match=r"logits of shape \(2, 32\), \(2, 32\): must be \(1, 32\)"):
        source.decode(torch.zeros(2, 32), torch.zeros(2, 32))


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([], {}, "there is no question"),
        ([ask("One.", (0, 3))], {"max_length": 15}, "window of 15 tokens: must be at least 16"),
        ([ask("One.", (0, 3))], {"stride": 0}, "stride = 0: must be at least 1"),
        ([ask("\u200b", (0, 1))], {}, "question 'q': the question or its passage has no word"),
        ([ask("One.", (0, 3), question="\u200b")], {}, "question 'q': the question or its passage has no word"),
    ],
)
def test_what_cannot_be_asked_is_named(
    words: Tokenizer, asked: list[Question], options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        QuestionSource(asked, words, **{"max_length": 32, "stride": 8, "seed": 0, **options})


def test_max_answer_length_must_allow_one_token(words: Tokenizer) -> None:
    source = QuestionSource([ask("One.", (0, 3))], words, 32, 8, seed=0)
    with pytest.raises(InputError, match="max_answer_length = 0: must be at least 1"):
        source.decode(torch.zeros(1, 32), torch.zeros(1, 32), max_answer_length=0)
