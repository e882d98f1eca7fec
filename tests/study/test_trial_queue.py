"""A trial of a recipe sees its own part of the held-out data; diverged, failed and doubled trials are told apart."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.models import TrialModel
from optuna.trial import TrialState
from support import planted

from anybatch.data.prepare import prepare
from anybatch.errors import InputError, Stopped
from anybatch.progress import SilentProgress
from anybatch.recipes import change, find_recipe
from anybatch.runs import Run
from anybatch.study import Entrant, Outcome, Study, Trial
from anybatch.study.declaration import LR
from anybatch.study.execution import Diverged, check_course, train_trial
from anybatch.study.trial_queue import MOST_LOST_WORKERS, TrialQueue
from anybatch.study.worker import run_study, run_trial

TEXT = " ".join(f"The {n}th of many sentences speaks of {n * n} things." for n in range(40))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Momentum at two rates, of which one cannot but diverge, on a BERT that sees 64 examples."""
    folder = tmp_path_factory.mktemp("text") / "shards"
    prepare(lambda: [TEXT for n in range(40)], folder, vocabulary_size=300, held_out=0.3)
    recipe = change(
        find_recipe("bert-demo"),
        [
            f'data.path="{folder}"', "reference.num_examples=96", "data.num_held_out=24", "engine.micro_batch_size=8",
            "optimizer.name=momentum", "reference.warmup_ratio=0", "max_grad_norm=null", "model.hidden_size=16",
        ],
    )  # fmt: skip
    return Study("tiny", "?", (Entrant("Momentum", recipe, {LR: (0.01, 0.02)}),), (8,), "grid", num_evals=4)


def test_tuning_and_reported_runs_are_judged_by_different_data(tiny: Study, tmp_path: Path) -> None:
    tuning, reported = tiny.trials[0], tiny.trials[-1]
    same = replace(reported, seed=tuning.seed)
    outcomes = [
        train_trial(tiny, trial, trial.recipe({LR: 0.01}), tmp_path, SilentProgress()) for trial in (tuning, same)
    ]
    assert [outcome.num_steps for outcome in outcomes] == [12, 12]
    assert len(outcomes[0].curve) == 5
    first, second = (outcome.curve[0][2] for outcome in outcomes)
    # Momentum has none, and a tuning run is not looked at.
    assert [outcome.ratios for outcome in outcomes] == [(), ()]
    # One seed, one untrained model: only the examples it is judged by differ.
    assert first != second
    assert first == pytest.approx(second, rel=0.1)


def test_a_diverged_run_is_given_up(tiny: Study, tmp_path: Path) -> None:
    trial = tiny.trials[0]
    outcome = train_trial(tiny, trial, trial.recipe({LR: 1e9}), tmp_path, SilentProgress())
    assert outcome.diverged
    assert outcome.final is None
    assert outcome.num_steps < 12


@pytest.mark.parametrize(
    ("share", "trained", "held_out", "diverged"),
    [
        (0.1, [math.nan] * 3, 2.0, True),
        (0.4, [7.6, 7.0, 6.0], 9.0, False),  # it may recover from the peak of its learning rate
        (0.6, [7.6, 7.0, 6.0], 9.0, True),
        (0.6, [7.6, 7.0, 6.0], 2.0, False),
        (0.6, [1.9, 1.8, 1.7], 7.1, False),  # BatchNorm's averages are late, and the model learns
        (0.6, [7.6, 1.8, 7.0], 9.0, False),
    ],
)
def test_a_run_is_given_up_only_where_training_and_evaluation_are_lost(
    share: float, trained: list[float], held_out: float, diverged: bool, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    losses = [("eval", 2.3), *(("train", loss) for loss in trained), ("eval", held_out)]
    lines = [
        json.dumps({"event": event, "step": step, "examples": step, "loss": loss, "accuracy": {}})
        for step, (event, loss) in enumerate(losses)
    ]
    run.metrics_file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(Diverged) if diverged else nullcontext():
        check_course(run, share)


def test_held_out_data_of_one_batch_have_no_parts(tiny: Study, tmp_path: Path) -> None:
    trial = tiny.trials[-1]
    recipe = change(trial.recipe({LR: 0.01}), ["engine.micro_batch_size=64"])
    with pytest.raises(InputError, match=r"lower engine\.micro_batch_size"):
        train_trial(tiny, trial, recipe, tmp_path, SilentProgress())


def fails_at_256(study: Study, trial: Trial, recipe: object, out: Path, progress: object) -> Outcome:
    if trial.batch_size == 256:
        raise ValueError("no such batch")
    return Outcome(((1, 64, float(trial.seed)),), False, 1)


def test_a_trial_that_fails_is_a_result_and_the_study_goes_on(tmp_path: Path) -> None:
    study = replace(planted.study(), batch_sizes=(64, 256), run=fails_at_256)
    results = run_study(lambda: study, tmp_path, SilentProgress())
    assert len(results) == len(study.trials)
    errors = {result.error for key, result in results.items() if "b256-tuning" in key}
    assert errors == {"ValueError: no such batch"}
    reported = next(result for key, result in results.items() if "b256-reported" in key)
    assert "no tuning run of this optimizer" in reported.error


def queue_of(folder: Path, study: Study | None = None) -> TrialQueue:
    return TrialQueue(study or replace(planted.study(), protocol="untuned"), f"sqlite:///{folder / 'q.sqlite'}", 20)


def test_of_two_trials_with_one_key_one_is_run(tmp_path: Path) -> None:
    first, second = queue_of(tmp_path), queue_of(tmp_path)
    first.declare_all()
    # As a worker does that looked before the other one declared.
    for trial in second.study.trials:
        second._add(trial, TrialState.WAITING)
    # And one that claims the second of the two before it has seen the first.
    trial = first.study.trials[0]
    doubled = first._by_key()[trial.key]
    assert len(doubled) == 2
    assert second._claim(doubled[1], trial) is None
    keys = []
    for queue in (first, second) * len(first.study.trials):
        taken = queue.take()
        if taken is not None:
            keys.append(taken.trial.key)
            queue.succeed(taken, Outcome(((1, 1, 0.5),), False, 1), {})
    assert sorted(keys) == sorted(trial.key for trial in first.study.trials)
    assert first.finished()
    assert second.take() is None


def test_two_workers_that_reach_for_one_trial_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = [queue_of(tmp_path) for _ in range(2)]
    queues[0].declare_all()
    between_reading_and_writing = threading.Barrier(2)
    find = TrialModel.find_or_raise_by_id.__func__  # type: ignore[attr-defined]

    def meet(cls: object, trial_id: int, session: object, for_update: bool = False) -> Any:
        found = find(cls, trial_id, session, for_update)
        if for_update:
            # Where the storage lets only one in, the other one does not come.
            with suppress(threading.BrokenBarrierError):
                between_reading_and_writing.wait(timeout=1)
        return found

    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", classmethod(meet))
    with ThreadPoolExecutor(2) as pool:
        taken = [future.result() for future in [pool.submit(queue.take) for queue in queues]]
    assert len({one.trial.key for one in taken if one is not None}) == 2


def test_a_trial_given_back_is_taken_again_and_one_that_kills_its_workers_is_not(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)

    def asked_to_stop(*arguments: object) -> Outcome:
        raise Stopped("asked")

    study = replace(queue.study, run=asked_to_stop)
    queue.declare_all()
    taken = queue.take()
    assert taken is not None
    with pytest.raises(Stopped):
        run_trial(study, queue, taken, tmp_path, SilentProgress())
    for _ in range(MOST_LOST_WORKERS):
        again = None
        while again is None or again.trial.key != taken.trial.key:
            again = queue.take()
        # What a worker that is gone leaves, once its heartbeat is missed.
        queue._storage.set_trial_state_values(again.storage_id, TrialState.FAIL)
    queue.take()
    assert "workers ended while they ran it" in queue.results()[taken.trial.key].error


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    queue_of(tmp_path)
    with pytest.raises(InputError, match="declared otherwise"):
        queue_of(tmp_path, replace(planted.study(), target=1.5))


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(InputError, match="--storage nonsense: cannot be opened"):
        TrialQueue(planted.study(), "nonsense", 20)


def test_a_study_that_was_declared_in_older_words_goes_on(tmp_path: Path) -> None:
    """Fields of its recipes had other names, and the engine other defaults: its results are the same."""
    queue = queue_of(tmp_path)
    old = queue._study.user_attrs["declaration"]
    for entrant in old["entrants"]:
        data = entrant["recipe"]["data"]
        data["short_probability"] = data.pop("short_seq_prob")
        entrant["recipe"]["engine"]["keep_last"] = 1
    queue._study.set_user_attr("declaration", old)
    queue._study.set_user_attr("fingerprint", "that of the older words")
    assert queue_of(tmp_path).results() == queue.results()
    old["entrants"][0]["recipe"]["data"]["short_probability"] = 0.3
    queue._study.set_user_attr("declaration", old)
    with pytest.raises(InputError, match="declared otherwise"):
        queue_of(tmp_path)
