"""What cannot be written is named as the user named it."""

import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from anybatch.engine.pieces import safetensors_errors
from anybatch.files import locked, new_folder, write_text


def test_no_scratch_is_named(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 250)
    with pytest.raises(OSError, match="File name too long") as caught:
        write_text(long, "text")
    assert caught.value.filename == str(long)
    with pytest.raises(OSError, match="File name too long") as caught, new_folder(long):
        pass
    assert caught.value.filename == str(long)
    with pytest.raises(IsADirectoryError) as caught, new_folder(tmp_path / "out") as scratch:
        scratch.write_text("text")
    assert caught.value.filename == str(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_error_of_safetensors_becomes_the_system_s(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, safetensors_errors(tmp_path / "model"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.filename == str(tmp_path / "model")


def test_a_lock_is_held_by_one_and_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock):
        start = time.monotonic()
        with pytest.raises(BlockingIOError), locked(lock, wait_s=0.1):
            pass
        assert time.monotonic() - start >= 0.1
    with locked(lock, wait_s=0):
        pass
