"""The two ways in which anybatch ends a command on purpose; everything else that escapes is a defect."""


class InputError(ValueError):
    """Something the user gave is wrong and the user can mend it (exit code 2).

    The message is one line: what is wrong, where, the value, the bound, and what to do.
    """


class Stopped(Exception):
    """A run was asked to stop; its state is saved and `--resume` goes on from there (exit code 75)."""
