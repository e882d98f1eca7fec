"""The queue of a study's trials in Optuna's relational storage: any number of workers take from it, each trial once.

A trial of the declaration is known in the storage by its key. Of several that have the same key, because workers
declared or took over at the same moment, the one with the lowest number that is alive counts, and every other is given
up by whoever took it. That a trial is taken once rests on the storage: Optuna reads its state and then writes it, with
the row locked in between, and SQLite, which has no such locks, is made to give each transaction the whole file.
"""

import contextlib
import logging
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from anybatch.errors import InputError
from anybatch.study.declaration import Outcome, Settings, Study, Trial

try:
    import optuna
    import sqlalchemy.event
    import sqlalchemy.exc
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ImportError:
    raise InputError("a study needs Optuna: pip install 'anybatch[study]'") from None

Value = TypeVar("Value")

# Workers that a trial may outlive; one that loses so many is not taken again.
MOST_LOST_WORKERS = 3
# What a storage raises that may answer the next time, and any that does not answer; Optuna wraps some of it.
_BUSY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError, optuna.exceptions.StorageInternalError)
_AWAY = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
_LIVE = (TrialState.WAITING, TrialState.RUNNING)
# A heartbeat is compared in whole seconds, and may wait for a busy storage.
_MISSED_BEATS = 3


@dataclass(frozen=True)
class Result:
    """What the storage holds of a trial that is over: its outcome and settings, or why there is none."""

    outcome: Outcome | None
    settings: Settings
    error: str = ""


@dataclass(frozen=True)
class Taken:
    """A trial that this worker runs, and what was known of the others when it was taken."""

    trial: Trial
    storage_id: int
    results: Mapping[str, Result]


class TrialQueue:
    """The trials of `study` in the database at `url`, made where there is none.

    Raises:
        InputError: the database cannot be opened, or holds a study of this name that is declared otherwise.
    """

    def __init__(self, study: Study, url: str, heartbeat_s: int) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self.study, self.heartbeat_s = study, heartbeat_s
        self._trials = study.trials
        self._storage = _open(url, heartbeat_s)
        self._study = _retried(
            lambda: optuna.create_study(
                storage=self._storage,
                study_name=study.name,
                direction="maximize" if study.higher_is_better else "minimize",
                load_if_exists=True,
            )
        )
        self._id = self._storage.get_study_id_from_name(study.name)
        found = self._study.user_attrs.get("fingerprint")
        if found is None:
            self._study.set_user_attr("fingerprint", study.fingerprint())
            self._study.set_user_attr("declaration", study.declaration())
        elif found != study.fingerprint():
            raise InputError(
                f"{url}: holds a study called {study.name!r} that is declared otherwise; "
                "choose another --out or --storage, or give this one another name"
            )

    def take(self) -> Taken | None:
        """The next trial that can be run, now this worker's; None where there is none at the moment."""
        with contextlib.suppress(*_AWAY), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optuna.storages.fail_stale_trials(self._study)
        by_key = self._by_key()
        results = _results(by_key)
        for trial in self._trials:
            if trial.key in results:
                continue
            live = [one for one in by_key[trial.key] if one.state in _LIVE]
            if not live:
                self._declare(trial, by_key[trial.key])
            elif live[0].state is TrialState.WAITING and self._ready(trial, results):
                storage_id = self._claim(live[0], trial)
                if storage_id is not None:
                    return Taken(trial, storage_id, results)
        return None

    def declare_all(self) -> None:
        """Puts every declared trial that is not there yet into the storage."""
        by_key = self._by_key()
        for trial in self._trials:
            if not by_key[trial.key]:
                self._add(trial, TrialState.WAITING)

    def finished(self) -> bool:
        """Whether every declared trial has a result."""
        results = self.results()
        return all(trial.key in results for trial in self._trials)

    def results(self) -> dict[str, Result]:
        """What is known by now, by key."""
        return _results(self._by_key())

    @contextlib.contextmanager
    def heartbeat(self, taken: Taken) -> Iterator[None]:
        """Gives signs of life for `taken` while the block runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.heartbeat_s):
                # A storage that is busy or away for a moment must not end the run; one that stays away ends it later.
                with contextlib.suppress(*_AWAY):
                    self._storage.record_heartbeat(taken.storage_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def succeed(self, taken: Taken, outcome: Outcome, settings: Settings) -> None:
        """Records an outcome; one that diverged is recorded as pruned."""
        self._end(
            taken.storage_id,
            {"outcome": [list(point) for point in outcome.curve], "num_steps": outcome.num_steps,
             "diverged": outcome.diverged, "settings": dict(settings), "ratios": outcome.ratios},
            TrialState.COMPLETE if outcome.final is not None else TrialState.PRUNED,
            outcome.final,
        )  # fmt: skip

    def fail(self, taken: Taken, error: str) -> None:
        """Records that the trial cannot be run, which is final."""
        self._end(taken.storage_id, {"error": error}, TrialState.FAIL)

    def release(self, taken: Taken) -> None:
        """Gives the trial back, for any worker to go on with."""
        self._end(taken.storage_id, {"released": True}, TrialState.FAIL)

    def _end(self, storage_id: int, values: Mapping[str, Any], state: TrialState, metric: float | None = None) -> None:
        # Where this worker was slow enough to be taken for lost, another one's result stands.
        with contextlib.suppress(RuntimeError):
            _retried(lambda: self._storage.set_trial_user_attr(storage_id, "result", dict(values)))
            _retried(
                lambda: self._storage.set_trial_state_values(storage_id, state, None if metric is None else [metric])
            )

    def _ready(self, trial: Trial, results: Mapping[str, Result]) -> bool:
        return trial.settings is not None or all(one.key in results for one in self.study.tuning_of(trial))

    def _declare(self, trial: Trial, before: list[FrozenTrial]) -> None:
        lost = [one for one in before if "result" not in one.user_attrs]
        if len(lost) < MOST_LOST_WORKERS:
            self._add(trial, TrialState.WAITING)
        else:
            error = f"{len(lost)} workers ended while they ran it; the machine may lack the memory for it"
            self._add(trial, TrialState.FAIL, {"result": {"error": error}})

    def _add(self, trial: Trial, state: TrialState, values: Mapping[str, Any] | None = None) -> None:
        attributes = {"key": trial.key, **(values or {})}
        _retried(lambda: self._study.add_trial(create_trial(state=state, user_attrs=attributes)))

    def _claim(self, found: FrozenTrial, trial: Trial) -> int | None:
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, found.number)
        try:
            # Alive before it runs: a worker killed in between must leave a trial that can be missed.
            self._storage.record_heartbeat(storage_id)
            if not self._storage.set_trial_state_values(storage_id, TrialState.RUNNING):
                return None
        except (RuntimeError, *_AWAY):
            return None
        now = self._by_key()[trial.key]
        earlier = [one for one in now if one.number < found.number and (one.state in _LIVE or _result(one))]
        if earlier:
            self._end(storage_id, {"duplicate": earlier[0].number}, TrialState.FAIL)
            return None
        return storage_id

    def _by_key(self) -> dict[str, list[FrozenTrial]]:
        by_key: dict[str, list[FrozenTrial]] = defaultdict(list)
        # The study, unlike the bare storage, keeps finished trials and reads the others alone.
        for one in _retried(lambda: self._study.get_trials(deepcopy=False)):
            by_key[one.user_attrs["key"]].append(one)
        return by_key


def _results(by_key: Mapping[str, list[FrozenTrial]]) -> dict[str, Result]:
    found = {}
    for key, trials in by_key.items():
        known = [result for one in trials if (result := _result(one)) is not None]
        if known:
            found[key] = known[0]
    return found


def _result(one: FrozenTrial) -> Result | None:
    values = one.user_attrs.get("result")
    if not one.state.is_finished() or values is None:
        return None
    if "outcome" in values:
        curve = tuple((step, examples, value) for step, examples, value in values["outcome"])
        ratios = tuple((step, layers) for step, layers in values.get("ratios", ()))
        return Result(Outcome(curve, values["diverged"], values["num_steps"], ratios), values["settings"])
    return Result(None, {}, values["error"]) if "error" in values else None


def _open(url: str, heartbeat_s: int) -> RDBStorage:
    # A worker waits as long for the others' transactions.
    options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
    beats: dict[str, Any] = {"heartbeat_interval": heartbeat_s, "grace_period": _MISSED_BEATS * heartbeat_s}
    try:
        with warnings.catch_warnings():
            # Optuna marks its heartbeats as experimental.
            warnings.simplefilter("ignore")
            storage = _retried(lambda: RDBStorage(url, engine_kwargs=options, **beats))
    except (*_AWAY, ImportError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise InputError(f"--storage {url}: cannot be opened: {reason}") from None
    if storage.engine.dialect.name == "sqlite":
        # By default a transaction of Python's sqlite3 begins with its first write, so that two workers may both read
        # that a trial waits before either writes that it runs.
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage


def _retried(call: Callable[[], Value]) -> Value:
    """What `call` returns; workers that write or make the tables at the same moment are in each other's way."""
    for attempt in range(8):
        try:
            return call()
        except _BUSY:
            if attempt == 7:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError
