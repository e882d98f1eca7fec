"""Questions to make windows of, and windows whole."""

import numpy as np
import torch

from anybatch.data.spans import QuestionSource
from anybatch.data.squad import Answer, Question

HARD = "“Ångström” (1814–1874), naïve café… 日本 😀 U.S.A.'s $3.50! co\u0301operate\u200bd"


def ask(context: str, *spans: tuple[int, int], question: str = "What is it?", identifier: str = "q") -> Question:
    return Question(identifier, question, context, tuple(Answer(context[a:b], a) for a, b in spans), "t")


def whole(source: QuestionSource, epoch: int = 0) -> dict[str, torch.Tensor]:
    examples = np.arange(source.num_examples)
    return dict(source.batch(np.full_like(examples, epoch), examples).inputs)
