"""Runs of two ranks in which something goes wrong on rank 1; run as: faulty_ranks.py FOLDER FAULT ...

All runs side by side, forked from one process, since importing torch is what takes the time. FOLDER/FAULT then holds
the run, what each rank printed, and codes.json, their exit codes.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anybatch.engine import join_ranks, train, watch
from anybatch.errors import Elsewhere, Failed, InputError, Stopped
from anybatch.runs import Run
from support.forked import exit_codes, fork
from support.linear_job import RaggedExamples, regression_job


class Faulty(RaggedExamples):
    """Examples that do something to rank 1 when its share of the fourth step is read."""

    def __init__(self, rank: int, fault: str) -> None:
        super().__init__()
        self.rank, self.fault = rank, fault

    def read(self, start: int, count: int) -> Any:
        if self.rank == 1 and 30 <= start < 40:
            match self.fault:
                case "raise":
                    raise RuntimeError("the reader of rank 1 is broken")
                case "input":
                    raise InputError("shard-00007: truncated")
                case "memory":
                    raise torch.OutOfMemoryError("tried to allocate 2 GiB")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(600)
                case "freeze":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "stop":
                    os.kill(os.getpid(), signal.SIGUSR1)
        return super().read(start, count)


def main(folder: Path, rank: int, size: int, fault: str) -> int:
    hang_timeout_s = 3.0 if fault == "hang" else 600.0
    if fault == "freeze":
        # Sooner than the 25 s of a real run, so that the test is; late enough for a busy machine.
        watch._LOST_AFTER_S = 8.0
    try:
        with join_ranks(hang_timeout_s, f"file://{folder}/rendezvous?rank={rank}&world_size={size}") as ranks:
            job = regression_job(examples=Faulty(rank, fault), optimizer="adamw")
            train(job, Run(folder / "run"), ranks=ranks)
    except Elsewhere as told:
        return told.code
    except (InputError, Stopped, Failed) as error:
        print(f"anybatch: error: {error}", file=sys.stderr)
        return {InputError: 2, Stopped: 75, Failed: 1}[type(error)]
    return 0


if __name__ == "__main__":
    folder, *faults = sys.argv[1:]
    processes = {}
    for fault in faults:
        here = Path(folder) / fault
        (here / "run").mkdir(parents=True)
        processes[fault] = [fork(partial(main, here, rank, 2, fault), here / f"printed-{rank}") for rank in (0, 1)]
    for fault, ranks in processes.items():
        codes = exit_codes(ranks[:1])
        if fault == "freeze":
            os.kill(ranks[1], signal.SIGKILL)
        (Path(folder) / fault / "codes.json").write_text(json.dumps(codes + exit_codes(ranks[1:])))
