from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch.data.duplicates import find_duplicates, hashes


@given(st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=12))
@settings(deadline=None, max_examples=30)
def test_every_text_that_stood_before_is_marked(
    tmp_path_factory: pytest.TempPathFactory, portions: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("hashes") / "inner"
    hashed = (hashes([f"Text number {number}" for number in portion]) for portion in portions)
    marks = find_duplicates(hashed, folder)
    assert not folder.exists()
    flat = [number for portion in portions for number in portion]
    assert marks.tolist() == [number in flat[:place] for place, number in enumerate(flat)]


def test_white_space_does_not_make_a_text_another() -> None:
    found = hashes(["a b\n\nc", " a  b c ", "a bc", "A b c"])
    assert np.array_equal(found[0], found[1])
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_a_killed_run_s_hashes_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "hashes").mkdir()
    (tmp_path / "hashes" / "00").write_bytes(b"\0" * 48)
    assert find_duplicates([], tmp_path / "hashes").size == 0
