"""What all tests share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports Triton, which decides then whether to compile its programs or to interpret them on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from anybatch.data.squad import Question

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside a checkout of the repository; tests that need it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data sets in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def questions() -> list["Question"]:
    """Two hundred of the package's, each with one answer."""
    from anybatch.data.squad import Question, load_builtin

    return [Question(q.id, q.question, q.context, q.answers[:1], q.title) for q in load_builtin()[:200]]


@pytest.fixture(scope="session")
def words(questions: list["Question"]) -> "Tokenizer":
    """A vocabulary of what the questions are asked about."""
    from support.asking import HARD

    from anybatch.data import vocabulary

    texts = [HARD, *(question.context for question in questions)]
    return vocabulary.train(lambda: texts, 600)
