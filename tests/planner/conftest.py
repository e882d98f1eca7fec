"""The paper's table, which every planner must explain."""

import pytest
from planner_against_the_world import PAPER


@pytest.fixture
def paper() -> tuple[tuple[str, str, int, int, float], ...]:
    return PAPER
