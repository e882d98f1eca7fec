"""Runs torchrun for the supervisor, which replaces torchrun's output about a failed rank by one line.

python -m anybatch.engine.launcher FOLDER TORCHRUN-ARGUMENTS: leaves FOLDER/failures.json, {rank: exit code}, the first
failure first.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from anybatch.engine import outcomes
from anybatch.files import write_json

_PERIOD_S = 0.5


def main() -> int:
    """Runs torchrun; returns 1 if a rank failed, or 128 plus the number of the signal that ended it."""
    folder, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    logging.disable(logging.CRITICAL)
    # Slow imports come after the thread starts: the supervisor may die at any moment.
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(arguments)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        if Path(folder).is_dir():
            write_json(Path(folder) / outcomes.FAILURES, {rank: failure.exitcode for rank, failure in failures})
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    finally:
        if outcomes.abandoned():
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end_with_supervisor() -> None:
    """Ends the other ranks if the supervisor is gone; ranks that have begun save and end by themselves."""
    while not outcomes.abandoned():
        time.sleep(_PERIOD_S)
    folder = Path(os.environ[outcomes.FOLDER_VARIABLE])
    if not outcomes.read(folder):
        for process in outcomes.processes(folder):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
