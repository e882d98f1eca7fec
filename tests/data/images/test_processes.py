"""Images that processes decode are those that threads decode."""

import os
import signal

import numpy as np
import pytest
from support.odd_images import twelve_images

from anybatch.data.images.processes import ProcessViews
from anybatch.data.images.views import Cropping, FileViews
from anybatch.errors import Failed

EPOCHS, EXAMPLES = np.arange(33) // 11, np.arange(33) % 12


def file_views(named: list[str]) -> FileViews:
    cropping = Cropping(crop="resized", flip=True)
    return FileViews(twelve_images(), 8, 3, cropping, 7, lambda name, reason: named.append(name), True)


def test_they_show_what_threads_show_and_name_what_cannot_be_read_once() -> None:
    by_threads, by_processes = [], []
    threads = file_views(by_threads)
    processes = ProcessViews(file_views(by_processes), 2)
    for epochs in (EPOCHS, EPOCHS + 3):
        (pixels, seen), (same, too) = threads(epochs, EXAMPLES), processes(epochs, EXAMPLES)
        assert np.array_equal(pixels, same)
        assert np.array_equal(seen, too)
        assert not seen.all()
    assert by_processes == by_threads == ["image 5"]


def test_a_process_that_is_killed_ends_the_run_in_a_line() -> None:
    processes = ProcessViews(file_views([]), 1)
    for process in processes._pool._processes.values():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Failed, match=r"engine\.decoding=threads"):
        processes(EPOCHS, EXAMPLES)
