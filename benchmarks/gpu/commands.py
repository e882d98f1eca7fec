"""`anybatch` on the command line, from a process that has imported it: forty commands cost no forty imports."""

import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from gpu.day import Day


@dataclass(frozen=True)
class Ran:
    """How a command ended, all that it printed, and how long it took."""

    code: int
    text: str
    seconds: float


def anybatch(day: Day, *arguments: str | Path) -> Ran:
    """`anybatch ARGUMENTS` in a fork of this process, which must not have touched the GPU."""
    import torch

    assert not torch.cuda.is_initialized(), "a fork of a process that has used the GPU cannot use it"
    printed = day.scratch / "printed.txt"
    started = time.perf_counter()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _become(list(map(str, arguments)), printed)
    _, status = os.waitpid(pid, 0)
    text = printed.read_text(encoding="utf-8", errors="replace")
    return Ran(os.waitstatus_to_exitcode(status), text, time.perf_counter() - started)


def _become(arguments: list[str], printed: Path) -> None:
    """The command line, in place of this process."""
    code = 1
    try:
        file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        import torch

        if torch.cuda._is_in_bad_fork():
            # Something that was imported has asked the driver, and only a new process can use the GPU.
            os.execv(sys.executable, [sys.executable, "-m", "anybatch", *arguments])
        sys.argv = ["anybatch", *arguments]
        from anybatch.__main__ import start

        start()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
