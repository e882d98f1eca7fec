"""The ways in which anybatch ends a command on purpose; everything else that escapes is a defect."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that the user gave is wrong, and the user can mend it (exit code 2).

    The message is one line: what is wrong, where, the value, the bound, and what to do.
    """


class Stopped(Exception):
    """A run was asked to stop; its state is saved and `--resume` continues it (exit code 75)."""


class Reached(Stopped):
    """A run reached the step at which `engine.stop_after_steps` ends it; its state is saved."""


class Failed(Exception):
    """A run could not continue, but the program has no defect: a machine was lost, for example (exit code 1)."""


class Elsewhere(Exception):
    """This process ends with `code` and prints nothing: another process reports what happened."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def readable(path: object, what: str) -> Iterator[None]:
    """Raises InputError instead of a library's error about a damaged or unknown file or folder."""
    try:
        yield
    except InputError:
        raise
    # A damaged or hostile file can make a parser fail in any way.
    except Exception as error:
        raise InputError(f"{path}: no readable {what}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """Returns the message of an error, or its kind if it has none, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
