"""The ways in which anybatch ends a command on purpose; everything else that escapes is a defect."""


class InputError(ValueError):
    """Something the user gave is wrong and the user can mend it (exit code 2).

    The message is one line: what is wrong, where, the value, the bound, and what to do.
    """


class Stopped(Exception):
    """A run was asked to stop; its state is saved and `--resume` goes on from there (exit code 75)."""


class Reached(Stopped):
    """A run came to the step at which `engine.stop_after_steps` ends it; its state is saved."""


class Failed(Exception):
    """A run could not go on, for a reason that is no defect of the program, such as a lost machine (exit code 1)."""


class Elsewhere(Exception):
    """This process ends with `code` and says nothing: another one tells what happened."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
