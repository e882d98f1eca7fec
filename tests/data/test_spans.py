"""Windows of questions: what is shown, where the targets lie."""

from typing import Literal
from unicodedata import combining, normalize

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asking import HARD, ask, whole
from tokenizers import Tokenizer

from anybatch.data.spans import LONGEST_QUESTION, QuestionSource
from anybatch.data.squad import Question
from anybatch.errors import InputError
from anybatch.evaluation.answers import decode


def certain(source: QuestionSource, inputs: dict[str, torch.Tensor]) -> dict[str, str]:
    """What is decoded where the model is certain of the targets, and of nothing where they are the [CLS]."""
    rows = torch.arange(source.num_examples)
    start, end = torch.zeros(2, source.num_examples, source.max_length)
    answered = inputs["start_positions"] > 0
    start[rows[answered], inputs["start_positions"][answered]] = 9
    end[rows[answered], inputs["end_positions"][answered]] = 9
    found = decode(source, start, end, max_answer_length=source.max_length)
    return {name: each.answer(None) for name, each in found.items()}


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
    # The vocabulary drops combining marks, which belong to the letter before them.
    while end < len(HARD) and combining(HARD[end]):
        end += 1
    source = QuestionSource([ask(HARD, (begin, end))], words, 128, 32, seed=0)
    assert source.num_examples == 1
    assert certain(source, whole(source)) == {"q": HARD[begin:end]}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_marks_that_the_vocabulary_drops_belong_to_their_word(
    words: Tokenizer, form: Literal["NFC", "NFD"]
) -> None:
    text = normalize(form, "Người Việt ở cafés, naïve Ångström; x\u0302\u0323 \u2764\ufe0f e\u0301.")
    begin = 0
    for word in text.split():
        begin = text.index(word, begin)
        source = QuestionSource([ask(text, (begin, begin + len(word)))], words, 128, 32, seed=0)
        assert certain(source, whole(source)) == {"q": word}
        begin += len(word)


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


def test_a_question_without_an_answer_points_at_the_first_token_everywhere(words: Tokenizer) -> None:
    asked = [ask("It is here. " * 20, (0, 2)), ask("It is here. " * 20, identifier="none"), ask("It.", (0, 2))]
    inputs = whole(QuestionSource(asked, words, 32, 16, seed=0))
    answered = (inputs["start_positions"] > 0).tolist()
    assert sum(answered) == 2
    assert answered[0]
    assert answered[-1]


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


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([], {}, "there is no question"),
        ([ask("One.", (0, 3))], {"max_length": 15}, "window of 15 tokens: must be at least 16"),
        ([ask("One.", (0, 3))], {"stride": 0}, "stride = 0: must be at least 1"),
        ([ask("\u200b", (0, 1))], {}, "the questions: question 'q': its passage has no word"),
        ([ask("One.", (0, 3), question="\u200b")], {}, "question 'q': the question has no word"),
        # Behind the last word it would have pointed at the [SEP].
        ([ask("One. \u200b", (5, 6))], {}, r"question 'q': answers\[0\]: '\\u200b' has no word in it"),
        ([ask("One \u200b two.", (4, 5))], {}, r"answers\[0\]: '\\u200b' has no word in it"),
    ],
)
def test_what_cannot_be_asked_is_named(
    words: Tokenizer, asked: list[Question], options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        QuestionSource(asked, words, **{"max_length": 32, "stride": 8, "seed": 0, **options})
