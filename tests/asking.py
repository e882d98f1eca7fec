"""Questions to make windows of, and windows whole."""

from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer

from anybatch.data import vocabulary
from anybatch.data.spans import QuestionSource
from anybatch.data.squad import Answer, Question, load_builtin

HARD = "“Ångström” (1814–1874), naïve café… 日本 😀 U.S.A.'s $3.50! co\u0301operate\u200bd"


@lru_cache(maxsize=1)
def package_questions() -> list[Question]:
    """Two hundred of the package's, each with one answer."""
    return [Question(q.id, q.question, q.context, q.answers[:1], q.title) for q in load_builtin()[:200]]


@lru_cache(maxsize=1)
def package_words() -> Tokenizer:
    texts = [HARD, *(question.context for question in package_questions())]
    return vocabulary.train(lambda: texts, 600)


def ask(context: str, *spans: tuple[int, int], question: str = "What is it?", identifier: str = "q") -> Question:
    return Question(identifier, question, context, tuple(Answer(context[a:b], a) for a, b in spans), "t")


def whole(source: QuestionSource, epoch: int = 0) -> dict[str, torch.Tensor]:
    examples = np.arange(source.num_examples)
    return dict(source.batch(np.full_like(examples, epoch), examples).inputs)
