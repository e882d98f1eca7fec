"""Where a run may be written."""

from pathlib import Path

import pytest

from anybatch.errors import InputError
from anybatch.recipes import find_recipe, train_recipe


def test_a_run_folder_that_is_a_link_to_nothing_is_refused_by_the_name_that_was_given(tmp_path: Path) -> None:
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"run: is a link to .*nowhere, which does not exist; make that folder first"):
        train_recipe(find_recipe("digits-lenet"), link)
    assert link.is_symlink()
    assert not (tmp_path / "nowhere").exists()
