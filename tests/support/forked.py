"""Several ranks from one process that has imported torch already: starting them is what takes the time in a test."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


def run_script(script: Path, *arguments: str | Path, limit_s: float = 120) -> None:
    """Runs a Python script of the tests with one thread; it must return 0 within the limit, which ends its children."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(script), *map(str, arguments)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as run:
        try:
            assert run.wait(timeout=limit_s) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def fork(main: Callable[[], int], printed: Path | None = None) -> int:
    """Starts a process that exits with what `main` returns, and returns its number."""
    process = os.fork()
    if process:
        return process
    if printed is not None:
        with open(printed, "w") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main())


def exit_codes(processes: Sequence[int]) -> list[int]:
    """Waits for processes that `fork` started."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def on_ranks(size: int, main: Callable[[int, str], None], rendezvous: Path) -> None:
    """`main(rank, url)` on `size` ranks, which meet at `url`; AssertionError where one fails."""
    rendezvous.unlink(missing_ok=True)

    def rank_main(rank: int) -> int:
        try:
            main(rank, f"file://{rendezvous}?rank={rank}&world_size={size}")
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    codes = exit_codes([fork(lambda rank=rank: rank_main(rank)) for rank in range(size)])
    assert codes == [0] * size, codes
