"""What all tests share."""

import os
from pathlib import Path

# Before anything imports Triton, which decides then whether to compile its programs or to interpret them on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside a checkout of the repository; tests that need it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data sets in {SHARED}")
    return SHARED
