"""The ways in which anybatch ends a command on purpose; everything else that escapes is a defect."""


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
