"""A study is declared beforehand: as many trials for everybody, points that fill their range, errors with a remedy."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from support import planted

from anybatch.comparison.rows import crossing
from anybatch.errors import InputError
from anybatch.study import Entrant, Study
from anybatch.study.catalogue import STUDIES, declare, find_study
from anybatch.study.command import plan
from anybatch.study.declaration import LR, Outcome
from anybatch.study.protocols import grid, quasirandom
from anybatch.study.trial_queue import Result
from anybatch.study.worker import chosen_settings


def test_a_grid_is_1_2_5_within_its_range() -> None:
    assert grid((2e-4, 1e-2)) == [2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    with pytest.raises(InputError, match="must be above 0 and rise"):
        grid((0.0, 1.0))


def test_quasirandom_points_fill_the_box_evenly() -> None:
    points = quasirandom({LR: (1e-4, 1e-1), "optimizer.weight_decay": (1e-3, 1e0)}, 27)
    for name, low in ((LR, 1e-4), ("optimizer.weight_decay", 1e-3)):
        thirds = [sum(low * 10**k <= point[name] < low * 10 ** (k + 1) for point in points) for k in range(3)]
        assert all(8 <= count <= 10 for count in thirds), thirds
    assert points == quasirandom({LR: (1e-4, 1e-1), "optimizer.weight_decay": (1e-3, 1e0)}, 27)


def test_everybody_has_the_same_trials_and_keys_are_unique() -> None:
    study = planted.study()
    trials = study.trials
    assert len({trial.key for trial in trials}) == len(trials)
    shares = [[t.key.partition("-b")[2] for t in trials if t.entrant is entrant] for entrant in study.entrants]
    assert shares[0] == shares[1]
    assert {t.seed for t in trials if t.part == "tuning"}.isdisjoint(t.seed for t in trials if t.part == "reported")


def test_unequal_budgets_are_refused() -> None:
    first, second = planted.study().entrants
    wider = Entrant(second.name, second.recipe, {LR: (1e-3, 1e-1)})
    with pytest.raises(InputError, match=r"different numbers of tuning trials \(LAMB 4, AdamW 7\)"):
        replace(planted.study(), entrants=(first, wider))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (1000,)}, "seed 1000 is both in seeds and in tuning_seeds"),
        ({"batch_sizes": (16, 16)}, "batch_sizes has the same one twice"),
        ({"protocol": "quasirandom"}, "needs ranges and num_trials"),
        ({"protocol": "random"}, "protocol = 'random': must be one of untuned, grid, quasirandom"),
    ],
)
def test_a_wrong_declaration_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(planted.study(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_shipped_study_has_a_plan(name: str) -> None:
    try:
        study = find_study(name)
    except InputError as error:
        pytest.skip(str(error))
    trials = [trial for trial in study.trials if trial.entrant is study.entrants[0]]
    assert plan(study)["trials"] == len(trials) * len(study.entrants)
    # Every trial is a valid recipe.
    for trial in trials:
        assert trial.recipe(trial.settings or {}).phases[0].batch_size == trial.batch_size


def test_a_study_is_made_of_a_recipe_and_a_few_words() -> None:
    words = {
        "optimizers": ["lamb", "momentum"],
        "ranges": ["lamb:optimizer.lr=1e-3:1e-2", "momentum:optimizer.lr=1e-2:1e-1"],
        "batch_sizes": [16, 64],
        "num_seeds": 2,
        "target": None,
    }
    study = declare("bert-demo", words)
    assert (study.protocol, study.batch_sizes, study.seeds) == ("grid", (16, 64), (0, 1))
    assert [entrant.recipe.optimizer.name for entrant in study.entrants] == ["lamb", "momentum"]
    assert len(study.trials) == 2 * 2 * (4 + 2)


def test_a_shipped_study_takes_fields_for_all_its_contenders():
    study = declare("paper-mnist", {"assignments": ["data.path=mnist"]})
    assert {one.recipe.data.path for one in study.entrants} == {"mnist"}
    assert len(study.trials) == len(find_study("paper-mnist").trials)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dem", {}, "nearest: demo"),
        ("missing.py", {}, "no such file"),
        ("bert-demo", {"optimizers": ["lam"]}, "must be one of lamb"),
        ("bert-demo", {"ranges": ["optimizer.lr=1"]}, "expected FIELD=LOW:HIGH"),
        ("demo", {"optimizers": ["lamb"]}, "declares its own"),
    ],
)
def test_a_wrong_word_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        declare(name, options)


def test_a_users_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def study():\n    return 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="returned a int"):
        find_study(str(tmp_path / "mine.py"))
    (tmp_path / "mine.py").write_text("import nothing_like_it\n", encoding="utf-8")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        find_study(str(tmp_path / "mine.py"))


def test_the_best_settings_are_finite_in_every_tuning_seed() -> None:
    study: Study = replace(planted.study(), tuning_seeds=(10, 11))
    trial = next(trial for trial in study.trials if trial.part == "reported")
    finals: dict[int, tuple[float | None, float | None]] = {
        0: (3.0, 3.0), 1: (1.0, None), 2: (2.0, 2.2), 3: (2.2, 2.0),
    }  # fmt: skip
    results = {}
    for one in study.tuning_of(trial):
        final = finals[one.number][one.seed - 10]
        results[one.key] = Result(Outcome(((1, 16, final),), final is None, 1), one.settings or {})
    assert chosen_settings(study, trial, results) == {LR: 0.05}
    nothing = {key: Result(Outcome((), True, 1), {}) for key in results}
    assert chosen_settings(study, trial, nothing) is None


def test_a_target_is_met_on_the_line_between_two_evaluations() -> None:
    curve = ((0, 0, 4.0), (10, 160, 3.0), (20, 320, 1.0))
    assert crossing(curve, 2.0, higher=False) == (15.0, 240.0)
    assert crossing(curve, 0.5, higher=False) is None
    accuracy = tuple(
        (steps, examples, math.nan if value is None else 1 - value / 4) for steps, examples, value in curve
    )
    assert crossing(accuracy, 0.5, higher=True) == (15.0, 240.0)
