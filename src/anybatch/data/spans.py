"""Questions to windows of tokens for training a span model, and back; answers.py reads the model's scores.

[CLS] question [SEP] a window of the passage [SEP]
"""

from collections.abc import Sequence
from unicodedata import category

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data.batch import Batch
from anybatch.data.pairs import NUM_MARKS, Places, Tokens, join
from anybatch.data.sampling import below, random_words
from anybatch.data.squad import Question
from anybatch.data.vocabulary import special_ids
from anybatch.errors import InputError

LONGEST_QUESTION = 64
SHORTEST_WINDOW = 16
# A question without an answer: the answer is in no window.
_NOWHERE = (-1, -1)


class QuestionSource:
    """Windows of `max_length` tokens over the passages of `questions`, each an example, in the order of the questions.

    A passage longer than a window is seen in several, which begin `stride` tokens apart, or closer if a window holds
    fewer. A question is cut to 64 tokens, and to half of what a window holds. In training, each (seed, epoch, example)
    draws one of the question's answers. If the answer is not wholly in the window, or there is none, both positions
    are 0, the [CLS].

    Raises:
        InputError: no questions, a setting out of bounds, a vocabulary that lacks a special token, or a passage,
            question or answer without a token; `where` names the questions' file in messages.
    """

    owners: Places
    """The number of each window's question, int64[N]."""

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Tokenizer,
        max_length: int,
        stride: int,
        seed: int,
        where: str = "the questions",
    ) -> None:
        if not questions:
            raise InputError("there is no question to make examples of")
        if max_length < SHORTEST_WINDOW:
            raise InputError(f"window of {max_length} tokens: must be at least {SHORTEST_WINDOW}")
        if stride < 1:
            raise InputError(f"stride = {stride}: must be at least 1")
        self.questions = questions
        self._where = where
        self.max_length = max_length
        self.seed = seed
        self._marks = special_ids(tokenizer)
        self._build(tokenizer, stride)

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns B windows for training, each as in its epoch; both arguments are int64[B].

        Returns:
            input_ids, token_type_ids, attention_mask, int64[B, S]; start_positions and end_positions, int64[B]: the
            answer's first and last token. Targets: "span" B.
        """
        examples = np.asarray(examples, dtype=np.int64)
        words = random_words(self.seed, "answer", epochs, examples, 1)[:, 0]
        owner = self.owners[examples]
        first = self._first_answer[owner]
        answer = first + below(words, self._first_answer[owner + 1] - first)
        begin, length = self._begin[examples], self._length[examples]
        start, end = self._answer_start[answer], self._answer_end[answer]
        inside = (start >= begin) & (end < begin + length)
        shift = self._question_length[owner] + 2 - begin
        places = {"start_positions": start + shift, "end_positions": end + shift}
        inputs = self._inputs(examples) | {
            name: torch.from_numpy(np.where(inside, place, 0)) for name, place in places.items()
        }
        return Batch(inputs, {"span": len(examples)}, len(examples))

    def windows(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """Returns input_ids, token_type_ids, attention_mask, int64[count, S], of `count` windows from `start` on."""
        return self._inputs(np.arange(start, min(start + count, self.num_examples)))

    def passage_columns(self) -> tuple[Places, Places]:
        """Returns each window's first and last column with a token of the passage, int64[N] both."""
        first = self._question_length[self.owners] + 2
        return first, first + self._length - 1

    def text(self, window: int, first: int, last: int) -> str:
        """Returns the part of the passage at the columns first .. last of a window."""
        owner = int(self.owners[window])
        shift = int(self._begin[window] - self._question_length[owner]) - 2
        begin, end = int(self._offsets[first + shift, 0]), int(self._offsets[last + shift, 1])
        return self.questions[owner].context[begin:end]

    def _inputs(self, examples: Places) -> dict[str, torch.Tensor]:
        owner = self.owners[examples]
        starts = self._question_begin[owner], self._begin[examples]
        lengths = self._question_length[owner], self._length[examples]
        pairs = join(self._tokens, starts, lengths, self.max_length, self._marks)
        return {name: torch.from_numpy(array) for name, array in pairs.inputs.items()}

    def _build(self, tokenizer: Tokenizer, stride: int) -> None:
        """Builds the flat tables of all examples: every passage's tokens once, then every question's."""
        room = self.max_length - NUM_MARKS
        contexts = list(dict.fromkeys(question.context for question in self.questions))
        encoded = tokenizer.encode_batch(contexts, add_special_tokens=False)
        asked = tokenizer.encode_batch([question.question for question in self.questions], add_special_tokens=False)
        context_begins = np.cumsum([0, *(len(encoding.ids) for encoding in encoded)])
        place = {context: number for number, context in enumerate(contexts)}
        pairs = [_with_marks(text, encoding.offsets) for text, encoding in zip(contexts, encoded, strict=True)]
        self._offsets = np.array([pair for part in pairs for pair in part], dtype=np.int64)
        tokens = [np.array(encoding.ids, dtype=np.int64) for encoding in (*encoded, *asked)]
        begins = np.cumsum([0, *map(len, tokens)])
        self._tokens = Tokens([np.concatenate(tokens)])
        self._question_begin = begins[len(contexts) : -1]
        self._question_length = np.array([min(len(each.ids), LONGEST_QUESTION, room // 2) for each in asked])
        windows: list[tuple[int, int, int]] = []
        answers: list[tuple[int, int]] = []
        first_answer = [0]
        for number, question in enumerate(self.questions):
            context = place[question.context]
            begin, length = int(context_begins[context]), len(encoded[context].ids)
            place_of = f"{self._where}: question {question.id!r}"
            if not length or not self._question_length[number]:
                raise InputError(f"{place_of}: {'its passage' if not length else 'the question'} has no word in it")
            held = room - int(self._question_length[number])
            for offset in range(0, max(length - held, 0) + min(stride, held), min(stride, held)):
                windows.append((number, begin + offset, min(held, length - offset)))
                if offset + held >= length:
                    break
            offsets = self._offsets[begin : begin + length]
            for rank, answer in enumerate(question.answers):
                first, last = _tokens_under(offsets, answer.start, answer.start + len(answer.text))
                if last < first:
                    raise InputError(f"{place_of}: answers[{rank}]: {answer.text!r} has no word in it")
                answers.append((begin + first, begin + last))
            if not question.answers:
                answers.append(_NOWHERE)
            first_answer.append(len(answers))
        self.num_examples = len(windows)
        self.owners, self._begin, self._length = np.array(windows, dtype=np.int64).T
        self._answer_start, self._answer_end = np.array(answers, dtype=np.int64).T
        self._first_answer = np.array(first_answer)


def _with_marks(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the offsets of tokens, with the combining marks after them that the normalizer dropped: 'cafe\u0301'."""
    if text.isascii():
        return offsets
    found, following = [], len(text)
    for begin, end in reversed(offsets):
        while end < following and category(text[end]) == "Mn":
            end += 1
        found.append((begin, end))
        following = begin
    return found[::-1]


def _tokens_under(offsets: NDArray[np.int64], begin: int, end: int) -> tuple[int, int]:
    """Returns the first and the last token that share a character with begin .. end - 1; tokens cover `offsets`."""
    first = int(np.searchsorted(offsets[:, 1], begin, side="right"))
    return first, int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
