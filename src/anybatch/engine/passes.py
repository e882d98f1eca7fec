"""The progress of work in passes over files, shown once a pass takes longer than a moment."""

import time
from collections.abc import Callable

from anybatch.progress import Progress, Task

_SHOWN_AFTER_S = 3.0


def show_passes(progress: Progress) -> Callable[[str, int, int, int], None]:
    """A function to be told (pass, documents done, bytes read, bytes in all), often; a quick pass shows nothing."""
    current = ""
    started = 0.0
    task: Task | None = None

    def tell(name: str, documents: int, done: int, total: int) -> None:
        nonlocal current, started, task
        if name != current:
            if task is not None:
                task.end()
            current, started, task = name, time.monotonic(), None
        if task is None and time.monotonic() - started >= _SHOWN_AFTER_S:
            task = progress.task(f"{name} (bytes)", total, done)
        if task is not None:
            task.advance(done, f"{documents:,} documents")

    return tell
