"""Writes checkpoints during training: a copy of the state at the end of a step, and a thread that writes it."""

import threading
from pathlib import Path

import torch
from torch import Tensor

from anybatch.engine.checkpoint import Content, Retention, write
from anybatch.engine.pieces import Held
from anybatch.engine.ranks import Ranks

# The longest time that a failing rank waits for the others' part of a checkpoint.
_PATIENCE_S = 5.0


class BackgroundWriter:
    """Writes one checkpoint at a time; the memory of the copy is kept from one to the next.

    Every rank has one, and calls it at the same steps: the threads agree among themselves in a separate group.
    """

    def __init__(self, folder: Path, ranks: Ranks, retention: Retention) -> None:
        self._folder, self._ranks, self._retention = folder, ranks.aside(), retention
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.step = 0

    def start(self, content: Content) -> None:
        """Copies `content` and begins to write it; `collect` must have ended the previous checkpoint."""
        assert self._thread is None, "one checkpoint at a time"
        own = Content(self._copied(content.tensors), content.state)
        self.step = own.step
        self._thread = threading.Thread(target=self._run, args=[own], name="anybatch-checkpoint", daemon=True)
        self._thread.start()

    def collect(self) -> bool:
        """Waits for the checkpoint in progress; returns whether there was one.

        Raises:
            OSError: it could not be written; on all ranks alike.
        """
        if self._thread is None:
            return False
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    @property
    def done(self) -> bool:
        """Returns whether `collect` has a result and would not wait."""
        return self._thread is not None and not self._thread.is_alive()

    def abandon(self) -> None:
        """Ends the writing when the run fails: a single rank finishes it, one of several tries for a moment."""
        if self._thread is not None:
            self._thread.join(None if self._ranks.size == 1 else _PATIENCE_S)

    def _run(self, content: Content) -> None:
        try:
            write(self._folder, content, self._ranks, self._retention)
        except BaseException as error:
            self._error = error

    def _copied(self, held: Held) -> Held:
        copied: Held = {}
        for kind, named in held.items():
            copied[kind] = {}
            for name, (value, first) in named.items():
                room = self._copies.get((kind, name))
                if room is None or room.shape != value.shape or room.dtype != value.dtype:
                    room = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                    self._copies[kind, name] = room
                copied[kind][name] = room.copy_(value, non_blocking=True), first
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied
