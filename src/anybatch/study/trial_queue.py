"""The queue of a study's trials in Optuna's relational storage: any number of workers take from it, each trial once.

The storage knows a trial of the declaration by its key. Several may have the same key, because workers declared or
took over at the same moment: then the live one with the lowest number counts, and the workers of the others give them
up. The storage guarantees that a trial is taken once: Optuna reads its state and then writes it, with the row locked
in between. SQLite has no such locks, and is made to give each transaction the whole file.

A worker counts its heartbeats in the trial that it runs. If another process sees no change for three heartbeats, by
the clock of its own process, it takes the worker for lost, unless the trial's run folder is locked.
"""

import contextlib
import json
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from anybatch.engine import stop_requests
from anybatch.errors import Failed, InputError, Stopped
from anybatch.process import keep_secret, masked
from anybatch.recipes import from_json
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

# The number of workers that a trial may lose; after that it is not taken again.
MOST_LOST_WORKERS = 3
# Errors of a storage that does not answer; Optuna wraps some of them.
_AWAY = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
# Errors of workers that write, or make the tables, at the same moment.
_CONTENDED = re.compile(r"locked|busy|already exists|duplicate|deadlock|serializ|IntegrityError", re.I)
# Errors that a retry does not change.
_LASTING = re.compile(r"password|authenti|denied|does not exist|unknown database|no such|doesn't exist", re.I)
_LIVE = (TrialState.WAITING, TrialState.RUNNING)
# A heartbeat may wait for a busy storage.
_MISSED_BEATS = 3
# A restarted storage is back within this time.
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Result:
    """The storage's record of an ended trial: its outcome and settings, or why there is none."""

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
    """The trials of `study` in the database at `url`, which is made if there is none.

    Args:
        heartbeat_s: seconds between this worker's heartbeats.
        busy: whether another process of this machine holds a trial's run folder; if so, it is alive.
        say: called if the storage does not answer.

    Raises:
        InputError: the database cannot be opened, or holds a study of this name that is declared otherwise.
        Failed: from every method: the storage has not answered for minutes, or is lost.
    """

    def __init__(
        self,
        study: Study,
        url: str,
        heartbeat_s: int,
        busy: Callable[[Trial], bool] = lambda trial: False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self.study, self.heartbeat_s, self._busy, self._say = study, heartbeat_s, busy, say
        self._trials = study.trials
        # The last heartbeat of every running trial, and when this process saw it.
        self._beats: dict[int, tuple[Any, float]] = {}
        self._storage = _open(url)
        self._study = self._asked(
            lambda: optuna.create_study(
                storage=self._storage,
                study_name=study.name,
                direction="maximize" if study.higher_is_better else "minimize",
                load_if_exists=True,
            )
        )
        self._id = self._asked(lambda: self._storage.get_study_id_from_name(study.name))
        found = self._asked(lambda: self._study.user_attrs.get("fingerprint"))
        if found is None:
            self._asked(lambda: self._study.set_user_attr("fingerprint", study.fingerprint()))
            self._asked(lambda: self._study.set_user_attr("declaration", study.declaration()))
        # The storage may hold the study as it was declared when fields had other names, or the engine others.
        elif found != study.fingerprint() and _results_of(
            self._asked(lambda: self._study.user_attrs["declaration"])
        ) != _results_of(study.declaration()):
            raise InputError(
                f"{masked(url)}: holds a study called {study.name!r} that is declared otherwise; "
                "choose another --out or --storage, or give this one another name"
            )

    def take(self) -> Taken | None:
        """Takes the next trial that can run for this worker; None if there is none at the moment."""
        by_key = self._by_key()
        if self._give_up_lost(by_key):
            by_key = self._by_key()
        results = _results(by_key)
        for trial in self._trials:
            if trial.key in results:
                continue
            ready = trial.settings is not None or all(one.key in results for one in self.study.tuning_of(trial))
            live = [one for one in by_key[trial.key] if one.state in _LIVE]
            if not live:
                self._declare(trial, by_key[trial.key])
            elif live[0].state is TrialState.WAITING and ready and not self._busy(trial):
                storage_id = self._claim(live[0], trial)
                if storage_id is not None:
                    return Taken(trial, storage_id, results)
        return None

    def _give_up_lost(self, by_key: Mapping[str, list[FrozenTrial]]) -> bool:
        """Fails the trials whose workers have had no heartbeat for too long; returns whether there was one."""
        now, lost = time.monotonic(), False
        for trial in self._trials:
            for one in by_key.get(trial.key, ()):
                if one.state is not TrialState.RUNNING:
                    continue
                beat = one.user_attrs.get("beat")
                before, since = self._beats.get(one.number, (None, now))
                if one.number not in self._beats or beat != before:
                    self._beats[one.number] = beat, now
                    continue
                period = max(self.heartbeat_s, beat["every_s"] if beat else 0)
                if now - since > _MISSED_BEATS * period and not self._busy(trial):
                    lost = True
                    self._set_state(self._storage_id(one), TrialState.FAIL)
        return lost

    def declare_all(self) -> None:
        """Adds every declared trial that is missing to the storage."""
        by_key = self._by_key()
        for trial in self._trials:
            if not by_key[trial.key]:
                self._add(trial, TrialState.WAITING)

    def finished(self) -> bool:
        """Returns whether every declared trial has a result."""
        results = self.results()
        return all(trial.key in results for trial in self._trials)

    def results(self) -> dict[str, Result]:
        """Returns the results so far, by key."""
        return _results(self._by_key())

    @contextlib.contextmanager
    def heartbeat(self, taken: Taken) -> Iterator[None]:
        """Records heartbeats for `taken` during the block."""
        done = threading.Event()

        def beat() -> None:
            count = 0
            while not done.wait(self.heartbeat_s if count else 0):
                count += 1
                # A storage that is busy or away for a moment must not end the run; one that stays away ends it later.
                # A trial that was taken for lost has already ended.
                with contextlib.suppress(RuntimeError, *_AWAY):
                    beat = {"count": count, "every_s": self.heartbeat_s}
                    self._storage.set_trial_user_attr(taken.storage_id, "beat", beat)

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
            taken,
            {"outcome": [list(point) for point in outcome.curve], "num_steps": outcome.num_steps,
             "diverged": outcome.diverged, "settings": dict(settings), "ratios": outcome.ratios},
            TrialState.COMPLETE if outcome.final is not None else TrialState.PRUNED,
            outcome.final,
        )  # fmt: skip

    def fail(self, taken: Taken, error: str) -> None:
        """Records that the trial cannot be run, which is final."""
        self._end(taken, {"error": masked(error)}, TrialState.FAIL)

    def release(self, taken: Taken) -> None:
        """Returns the trial to the queue, for any worker to continue."""
        self._end(taken, {"released": True}, TrialState.FAIL)

    def _end(self, taken: Taken, values: Mapping[str, Any], state: TrialState, metric: float | None = None) -> None:
        try:
            self._asked(lambda: self._storage.set_trial_user_attr(taken.storage_id, "result", dict(values)))
        except RuntimeError:
            # If this worker was so slow that it was taken for lost, its result still counts.
            if state in (TrialState.COMPLETE, TrialState.PRUNED) and taken.trial.key not in self.results():
                self._add(taken.trial, state, {"result": dict(values)}, metric)
            return
        self._set_state(taken.storage_id, state, metric)

    def _set_state(self, storage_id: int, state: TrialState, metric: float | None = None) -> None:
        # Another worker may have ended it meanwhile.
        with contextlib.suppress(RuntimeError):
            values = None if metric is None else [metric]
            self._asked(lambda: self._storage.set_trial_state_values(storage_id, state, values))

    def _declare(self, trial: Trial, before: list[FrozenTrial]) -> None:
        lost = [one for one in before if "result" not in one.user_attrs]
        if len(lost) < MOST_LOST_WORKERS:
            self._add(trial, TrialState.WAITING)
        else:
            error = f"{len(lost)} workers ended while they ran it; the machine may lack the memory for it"
            self._add(trial, TrialState.FAIL, {"result": {"error": error}})

    def _add(
        self, trial: Trial, state: TrialState, values: Mapping[str, Any] | None = None, metric: float | None = None
    ) -> None:
        attributes = {"key": trial.key, **(values or {})}
        self._asked(lambda: self._study.add_trial(create_trial(state=state, value=metric, user_attrs=attributes)))

    def _storage_id(self, one: FrozenTrial) -> int:
        return self._asked(lambda: self._storage.get_trial_id_from_study_id_trial_number(self._id, one.number))

    def _claim(self, found: FrozenTrial, trial: Trial) -> int | None:
        storage_id = self._storage_id(found)
        try:
            if not self._storage.set_trial_state_values(storage_id, TrialState.RUNNING):
                return None
        except (RuntimeError, *_AWAY):
            return None
        now = self._by_key()[trial.key]
        earlier = [one for one in now if one.number < found.number and (one.state in _LIVE or _result(one))]
        if earlier:
            self._asked(
                lambda: self._storage.set_trial_user_attr(storage_id, "result", {"duplicate": earlier[0].number})
            )
            self._set_state(storage_id, TrialState.FAIL)
            return None
        return storage_id

    def _asked(self, call: Callable[[], Value]) -> Value:
        """Returns the result of `call`; retries a storage that is away for as long as other workers would wait."""
        patience_s = max(_PATIENCE_S, _MISSED_BEATS * self.heartbeat_s)
        began, pause_s = time.monotonic(), 0.1
        while True:
            try:
                return call()
            except _AWAY as error:
                contended, waited = _CONTENDED.search(_reason(error)), time.monotonic() - began
                if not contended and (not _comes_back(error) or waited > patience_s):
                    lost = f"the storage is lost: {_reason(error)}; the same command goes on once it is back"
                    raise Failed(lost) from None
                if contended and waited > patience_s:
                    raise Failed(f"the storage is busy: {_reason(error)}; the same command goes on") from None
                if not contended and pause_s == 0.1:
                    self._say(f"the storage is away; asking again for {patience_s:.0f} s: {_reason(error)}")
            with stop_requests() as request:
                time.sleep(pause_s)
                if request.reason:
                    raise Stopped(f"{request.reason} while the storage was away; the same command goes on from there")
            pause_s = min(2 * pause_s, 2.0)

    def _by_key(self) -> dict[str, list[FrozenTrial]]:
        by_key: dict[str, list[FrozenTrial]] = defaultdict(list)
        # The study, unlike the bare storage, keeps finished trials and reads only the others.
        for one in self._asked(lambda: self._study.get_trials(deepcopy=False)):
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


def _open(url: str) -> RDBStorage:
    keep_secret(url)
    sqlite = url.startswith("sqlite")
    # A worker waits this long for the others' transactions; a connection to a restarted server is made again.
    options: dict[str, Any] = {"connect_args": {"timeout": 120}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(8):
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            break
        except (*_AWAY, ImportError, RuntimeError, ValueError) as error:
            if attempt == 7 or not _CONTENDED.search(_reason(error)):
                raise InputError(f"--storage {masked(url)}: cannot be opened: {_reason(error)}") from None
            time.sleep(0.1 * 2**attempt)
    if storage.engine.dialect.name == "sqlite":
        # By default a transaction of Python's sqlite3 begins with its first write. So two workers may both read that a
        # trial waits before either writes that it runs.
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage


def _cause(error: BaseException) -> BaseException:
    """Returns the database's error, which Optuna may have wrapped."""
    return error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error


def _comes_back(error: BaseException) -> bool:
    """Returns whether the storage may answer later: not after a wrong password, a lost table or a full disk."""
    cause = _cause(error)
    away = sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError | sqlalchemy.exc.InternalError
    if not isinstance(cause, away):
        return False
    return "sqlite" not in type(cause.orig).__module__ and not _LASTING.search(str(cause))


def _reason(error: BaseException) -> str:
    """Returns the first line of the error, without passwords."""
    return masked(" ".join(str(_cause(error)).split("\n")[0].split()))


def _results_of(declaration: dict[str, Any]) -> Any:
    """Returns what decides about the results, in today's words: all but how the engine executes a recipe."""
    entrants = [
        {**entrant, "recipe": from_json(entrant["recipe"]).model_dump(mode="json", exclude={"engine"})}
        for entrant in declaration["entrants"]
    ]
    return json.loads(json.dumps({**declaration, "entrants": entrants}))
