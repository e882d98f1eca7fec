"""The paper's table, which every planner must explain."""

import pytest

# You et al. 2020: workload, optimizer, batch, TPUv3 chips, minutes.
PAPER = [
    ("bert-large", "lamb", 512, 16, 82.8 * 60),
    ("bert-large", "adamw", 512, 16, 81.4 * 60),
    ("bert-large", "lamb", 1024, 32, 43.2 * 60),
    ("bert-large", "lamb", 2048, 64, 21.4 * 60),
    ("bert-large", "lamb", 4096, 128, 693.6),
    ("bert-large", "lamb", 8192, 256, 390.5),
    ("bert-large", "lamb", 16384, 512, 200.0),
    ("bert-large", "lamb", 32768, 1024, 101.2),
    ("bert-large-mixed", "lamb", 65536, 1024, 76.19),
]


@pytest.fixture
def paper() -> list[tuple[str, str, int, int, float]]:
    return PAPER
