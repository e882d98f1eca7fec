"""torchrun, as the supervisor starts it: what it would print about a failed rank, the supervisor says in one line.

python -m anybatch.engine.launcher FOLDER TORCHRUN-ARGUMENTS: leaves FOLDER/failures.json, {rank: exit code}, the first
failure first.
"""

import logging
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from anybatch.engine import outcomes
from anybatch.files import write_json


def main() -> int:
    """Runs torchrun; returns 1 where a rank failed."""
    folder, *arguments = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    try:
        run.main(arguments)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        write_json(Path(folder) / outcomes.FAILURES, {rank: failure.exitcode for rank, failure in failures})
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
