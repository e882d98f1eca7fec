"""A worker takes trials from a study's queue until all are over; any number of workers, anywhere, give one table."""

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import torch

from anybatch.engine import Progress, stop_requests
from anybatch.errors import Stopped
from anybatch.process import masked
from anybatch.runs import InUse, in_use
from anybatch.study.declaration import Settings, Study, Trial
from anybatch.study.execution import run_folder, train_trial
from anybatch.study.trial_queue import Result, Taken, TrialQueue
from anybatch.study.workers import run_side_by_side

_POLL_S = 0.5
HEARTBEAT_S = 20


def run_study(
    make: Callable[[], Study],
    out: Path,
    progress: Progress,
    *,
    storage: str | None = None,
    num_workers: int = 1,
    heartbeat_s: int = HEARTBEAT_S,
) -> dict[str, Result]:
    """Runs the rest of the study and waits for other workers' trials; returns every trial's result by key.

    Args:
        make: gives the study; pickled to the workers.
        out: the folder for the runs of this machine and, by default, for the storage.
        storage: the URL of a database; by default an SQLite file in `out`.
        num_workers: processes that this call starts, one thread each.
        heartbeat_s: seconds between a worker's heartbeats; after three missed ones another worker takes its trial
            over.

    Raises:
        Stopped: a signal asked for it; running trials are returned to the queue.
        InputError: the storage cannot be opened or holds another study of this name.
    """
    out.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{(out / 'study.sqlite').resolve()}"
    queue = TrialQueue(make(), url, heartbeat_s, say=progress.say)
    queue.declare_all()
    if not queue.finished() and num_workers > 1:
        work_here = partial(work, make, url, out, heartbeat_s)
        try:
            run_side_by_side([work_here] * num_workers, num_workers, progress)
        except BrokenProcessPool:
            progress.say("a worker was ended from outside; this process goes on alone")
    work(make, url, out, heartbeat_s, progress)
    return queue.results()


def work(make: Callable[[], Study], url: str, out: Path, heartbeat_s: int, progress: Progress) -> None:
    """Takes trials until all are over, including those of other workers."""
    study = make()

    def busy(trial: Trial) -> bool:
        """Returns whether another process that shares the folder is at work on the trial, however slow it is."""
        return study.run is None and in_use(run_folder(out, trial))

    queue = TrialQueue(study, url, heartbeat_s, busy, progress.say)
    # One thread: the same sums in the same order on any machine, so that the table is the same.
    torch.set_num_threads(1)
    waiting = False
    with stop_requests() as request:
        while True:
            taken = queue.take()
            if request.reason:
                if taken is not None:
                    queue.release(taken)
                raise Stopped(f"{request.reason}; the same command goes on from there")
            if taken is not None:
                waiting = False
                run_trial(study, queue, taken, out, progress)
            elif queue.finished():
                return
            else:
                if not waiting:
                    progress.say(f"worker {os.getpid()}: nothing to take now; waiting for trials of other workers")
                waiting = True
                time.sleep(_POLL_S)


def run_trial(study: Study, queue: TrialQueue, taken: Taken, out: Path, progress: Progress) -> None:
    """Runs a taken trial and records its result."""
    trial = taken.trial
    settings = chosen_settings(study, trial, taken.results)
    if settings is None:
        queue.fail(taken, "no tuning run of this optimizer at this batch ended with a finite metric")
        return
    execute = study.run or train_trial
    try:
        with queue.heartbeat(taken):
            outcome = execute(study, trial, trial.recipe(settings), out, progress)
    except (Stopped, KeyboardInterrupt):
        queue.release(taken)
        raise
    except InUse:
        queue.release(taken)
        progress.say(f"{trial.key}: another process is at work on it")
        return
    except OSError:
        # A full disk or a lost file system is this machine's fault, not the trial's.
        queue.release(taken)
        raise
    # One trial that cannot run must not end a study of hundreds: the report lists it.
    except Exception as error:
        queue.fail(taken, f"{type(error).__name__}: {' '.join(str(error).split())}")
        progress.say(masked(f"{trial.key}: failed: {error}"))
        return
    queue.succeed(taken, outcome, settings)
    shown = "diverged" if outcome.final is None else f"{study.metric} {outcome.final:.4f}"
    progress.say(f"{trial.key}: {shown} after {outcome.num_steps} steps")


def chosen_settings(study: Study, trial: Trial, results: Mapping[str, Result]) -> Settings | None:
    """Returns the settings of `trial`: its own, or the best of its cell's tuning; None if all of those failed
    or some have no result yet.

    Best: by the mean of the final metric over the tuning seeds, all of them finite; of two equal ones, the earlier.
    """
    if trial.settings is not None:
        return trial.settings
    best: tuple[float, Settings | None] = (math.inf, None)
    tuning = study.tuning_of(trial)
    if any(one.key not in results for one in tuning):
        return None
    for number in dict.fromkeys(one.number for one in tuning):
        trials = [one for one in tuning if one.number == number]
        outcomes = [results[one.key].outcome for one in trials]
        known = [outcome.final for outcome in outcomes if outcome is not None and outcome.final is not None]
        if len(known) == len(trials):
            cost = sum(known) / len(known) * (-1 if study.higher_is_better else 1)
            best = min(best, (cost, trials[0].settings), key=lambda each: each[0])
    return best[1]
