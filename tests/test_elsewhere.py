"""Other trainers' logs, as they are on disk."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from anybatch.cli.advice_text import logs_text
from anybatch.comparison.folders import load
from anybatch.comparison.rows import Reference
from anybatch.elsewhere import batch_of, batch_sizes, is_log, read_log
from anybatch.errors import InputError
from anybatch.report import write_report
from anybatch.study.own_runs import advise_on_logs


def state(
    folder: Path, batch: int | None, *, steps: int, losses: list[float], max_steps: int = 0, **extra: Any
) -> Path:
    """A Trainer's state as it writes it: a log entry and an evaluation at each of some equal distances."""
    folder.mkdir(parents=True)
    history: list[dict[str, Any]] = []
    for index, loss in enumerate(losses, start=1):
        step = steps * index // len(losses)
        own = {} if batch is None else {"global_batch_size": batch}
        history.append({"loss": loss + 0.1, "learning_rate": 0.01 / index, "step": step, "epoch": 1.0, **own, **extra})
        history.append({"eval_loss": loss, "eval_accuracy": 1 / (1 + loss), "step": step})
    history.append({"train_runtime": 10.0, "train_loss": 9.0, "step": steps})
    value = {"global_step": steps, "max_steps": max_steps or steps, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(value))
    return folder


def events(folder: Path, tags: dict[str, list[tuple[int, float]]]) -> Path:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as board:
        for tag, points in tags.items():
            for step, value in points:
                board.add_scalar(tag, value, step)
    return folder


def test_a_trainers_state_is_read(tmp_path: Path) -> None:
    log = read_log(state(tmp_path / "a", 32, steps=100, losses=[2.0, 1.0]))
    assert (log.batch, log.num_steps, log.finished) == (32, 100, True)
    assert log.of("eval_loss") == [(50, 2.0), (100, 1.0)]
    assert log.of("loss") == [(50, 2.1), (100, 1.1)], "the summary's train_loss is no step's"
    assert log.of("lr") == [(50, 0.01), (100, 0.005)]


def test_of_checkpoints_the_newest_counts_and_the_folder_is_one_run(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        state(tmp_path / "run" / f"checkpoint-{step}", 32, steps=step, losses=[1.0], max_steps=200)
    log = read_log(tmp_path / "run")
    assert (log.num_steps, log.finished) == (100, False)
    (record,) = load([tmp_path])
    assert (record.name, record.state) == ("run", "unfinished")


@pytest.mark.parametrize(
    ("train", "held_out", "rate"),
    [
        ("train/loss", "eval/loss", "train/learning_rate"),
        ("train_loss", "val_loss", "lr-LAMB"),
        ("loss", "val/loss", "lr"),
    ],
)
def test_event_files_are_read_by_the_names_that_trainers_use(
    train: str, held_out: str, rate: str, tmp_path: Path
) -> None:
    folder = events(
        tmp_path / "log",
        {
            train: [(1, 3.0), (8, 2.0)],
            held_out: [(8, 1.5)],
            rate: [(1, 0.5), (8, 0.25)],
            "global_batch_size": [(8, 64)],
        },
    )
    log = read_log(folder)
    assert (log.batch, log.num_steps, log.finished) == (64, 8, None)
    assert log.of("loss") == [(1, 3.0), (8, 2.0)]
    assert log.of("eval_loss") == [(8, 1.5)]
    assert log.of("lr") == [(1, 0.5), (8, 0.25)]


def test_the_report_compares_two_batches_of_one_trainer(tmp_path: Path) -> None:
    state(tmp_path / "runs" / "small", 32, steps=64, losses=[2.0, 1.0])
    state(tmp_path / "runs" / "large", None, steps=16, losses=[2.0, 1.02])
    write_report([tmp_path / "runs"], tmp_path / "page.html", batch_sizes={"large": 128})
    page = (tmp_path / "page.html").read_text()
    assert "stayed within 5\u202f% of its own batch-32 run" in page
    assert "×4 (batch 128, +2.0\u202f%)" in page
    assert "Accuracy on held-out data" in page


def test_noise_and_time_reach_the_record(tmp_path: Path) -> None:
    extra = {"noise/gradient_square": 1.0, "noise/trace": 50.0}
    state(tmp_path / "a", 32, steps=80, losses=[2.0, 1.5, 1.2, 1.0, 0.9], **extra)
    (record,) = load([tmp_path])
    assert record.noise[-1].noise.value == pytest.approx(50.0)
    assert (record.wall_s, record.examples_per_s) == (10.0, 256.0)
    assert (record.accuracy, record.score) == (pytest.approx(1 / 1.9), 0.9)


def test_without_a_held_out_loss_a_run_has_not_finished(tmp_path: Path) -> None:
    folder = state(tmp_path / "a", 32, steps=8, losses=[1.0])
    content = json.loads((folder / "trainer_state.json").read_text())
    content["log_history"] = [entry for entry in content["log_history"] if "eval_loss" not in entry]
    (folder / "trainer_state.json").write_text(json.dumps(content))
    (record,) = load([tmp_path])
    assert (record.state, record.message, record.diverged) == ("unfinished", "no held-out loss was logged", False)


def recorded(optimizer: str, lr: float, warmup_steps: int = 0, **more: float) -> dict[str, float]:
    """As the integrations of anybatch write it."""
    settings = {"lr": lr, "warmup_steps": warmup_steps, f"optimizer/{optimizer}": 1, **more}
    return {f"settings/{name}": value for name, value in settings.items()}


def test_advice_comes_from_the_noise_that_was_logged(tmp_path: Path) -> None:
    noise = {"noise/gradient_square": 1.0, "noise/trace": 400.0}
    state(tmp_path / "a", 8, steps=80, losses=[1.0] * 10, **noise, **recorded("LAMB", 0.01))
    advice = advise_on_logs(tmp_path, {})
    assert advice["critical_batch"] == pytest.approx(400)
    assert advice["nearly_free_batch"] == 64, "a quarter of the noise scale, in halvings and doublings of the batch"
    own = next(each for each in advice["settings"] if each["batch_size"] == 8)
    assert (own["lr"], own["num_steps"], own["multiplier"]) == (0.01, 80, 1.0)
    text = logs_text(advice)
    assert "examples double at batch 400 (400 to 400), by the noise scale of a" in text
    assert json.loads(json.dumps(advice))["runs"][0]["noise"]["value"] == pytest.approx(400)


def test_settings_are_what_was_recorded_not_the_highest_that_was_logged(tmp_path: Path) -> None:
    """A log every 40 steps has its first rate at 0.01, deep in the warm-up."""
    noise = {"noise/gradient_square": 1.0, "noise/trace": 400.0}
    state(tmp_path / "a", 8, steps=400, losses=[1.0] * 10, **noise, **recorded("AdamW", 0.39, 20))
    own = next(each for each in advise_on_logs(tmp_path, {})["settings"] if each["batch_size"] == 32)
    assert (own["lr"], own["warmup_steps"]) == (pytest.approx(0.78), 20)
    (record,) = load([tmp_path])
    assert (record.optimizer, record.lr, record.lr_is_bound, record.warmup_steps) == ("AdamW", 0.39, False, 20)


def test_the_highest_logged_rate_is_called_so_and_scaled_to_nothing(tmp_path: Path) -> None:
    noise = {"noise/gradient_square": 1.0, "noise/trace": 400.0}
    state(tmp_path / "a", 8, steps=80, losses=[1.0] * 10, **noise)
    advice = advise_on_logs(tmp_path, {})
    assert advice["settings"] == []
    text = logs_text(advice)
    assert ">=0.01" in text
    assert "has a rate in 10 of 80 steps, and the highest of them, 0.01, need not be the peak" in text
    write_report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert ">≥0.01<" in page
    assert "≥: the highest learning rate that the log has." in page


def test_a_log_of_every_step_shows_the_peak_and_the_warm_up(tmp_path: Path) -> None:
    rates = [(step, 0.1 * min(step / 4, 1)) for step in range(1, 13)]
    folder = events(tmp_path / "log", {"lr": rates, "loss": [(12, 1.0)], "global_batch_size": [(12, 64)]})
    assert read_log(folder).peak == (pytest.approx(0.1), 4)


def test_the_report_names_the_optimizers_and_holds_each_to_the_smallest_batch(tmp_path: Path) -> None:
    state(tmp_path / "adamw", 32, steps=64, losses=[2.0, 1.0], **recorded("AdamW", 0.001))
    tuned = {"reference_batch_size": 32, "reference_lr": 0.01, "rule/sqrt": 1}
    state(tmp_path / "lamb", 128, steps=16, losses=[2.0, 1.02], **recorded("LAMB", 0.02, 2, **tuned))
    state(tmp_path / "adamw-large", 128, steps=16, losses=[2.0, 1.5], **recorded("AdamW", 0.002))
    write_report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    text = html.unescape(page)
    assert "LAMB's held-out loss stayed within 5\u202f% of the AdamW batch-32 run at every larger batch" in text
    assert "AdamW's did so at no larger batch (nearest: ×4 (batch 128, +50\u202f%))" in text
    assert page.count('<th scope="row"') == 3, "a row a run"
    lamb = next(record for record in load([tmp_path]) if record.name == "lamb")
    assert (lamb.rule, lamb.reference) == ("sqrt", Reference(32, 0.01))


def test_a_run_that_is_no_more_than_the_reference_is_told_once(tmp_path: Path) -> None:
    state(tmp_path / "adamw", 32, steps=64, losses=[2.0, 1.0], **recorded("AdamW", 0.001))
    state(tmp_path / "lamb", 128, steps=16, losses=[2.0, 1.02], **recorded("LAMB", 0.02))
    write_report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "there is nothing to compare" not in page
    assert "AdamW ×1" in page
    assert "LAMB ×1" not in page
    assert "1.00 at the AdamW reference, batch 32; 1.02, gap +2.0\u202f%, at ×4 (batch 128)" in page


def test_what_was_measured_beside_the_noise_scale_is_set_against_it(tmp_path: Path) -> None:
    noise = {"noise/gradient_square": 1.0, "noise/trace": 400.0}
    state(tmp_path / "small", 8, steps=80, losses=[2.0, 1.5, 1.2, 1.1, 1.0], **noise, **recorded("AdamW", 0.01))
    state(tmp_path / "large", 80, steps=80, losses=[2.0, 1.5, 1.2, 1.1, 1.0], **recorded("LAMB", 0.01))
    text = logs_text(advise_on_logs(tmp_path, {}))
    assert (
        "large took 10.00 times the examples of small to loss 1; the noise scale alone makes it 1.18: what is beyond "
        "is due to its optimizer, rate and warm-up" in text
    )


def test_a_noise_scale_without_an_estimate_is_a_lower_bound(tmp_path: Path) -> None:
    folder = state(tmp_path / "a", 8, steps=80, losses=[1.0] * 8)
    content = json.loads((folder / "trainer_state.json").read_text())
    squares = iter([1.0, -1.2, 0.9, -1.0, 0.8, -1.7, 1.1, -1.0])
    for entry in content["log_history"]:
        if "loss" in entry:
            entry |= {"noise/gradient_square": next(squares), "noise/trace": 400.0}
    (folder / "trainer_state.json").write_text(json.dumps(content))
    assert re.search(
        r"examples double at batch [\d,]+ or more, by the noise scale of a", logs_text(advise_on_logs(tmp_path, {}))
    )


def test_advice_comes_from_two_batches(tmp_path: Path) -> None:
    """At E(B) = E_min (1 + B/64), 32 needs 1.5 and 128 needs 3 times the least."""
    state(tmp_path / "small", 32, steps=64, losses=[2.0, 1.0])
    state(tmp_path / "large", 128, steps=32, losses=[2.0, 1.0])
    advice = advise_on_logs(tmp_path, {})
    assert [run["examples_to_loss"] for run in advice["runs"]] == [2048, 4096]
    assert advice["critical_batch"] == pytest.approx(64)
    assert "by the examples of small and large to the same loss" in logs_text(advice)


def test_no_loss_of_examples_is_no_bound(tmp_path: Path) -> None:
    state(tmp_path / "small", 32, steps=64, losses=[2.0, 1.0])
    state(tmp_path / "large", 128, steps=16, losses=[2.0, 1.0])
    advice = advise_on_logs(tmp_path, {})
    assert advice["critical_batch"] == math.inf
    assert "examples double at no batch tried" in logs_text(advice)


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    folder = state(tmp_path / "a", None, steps=8, losses=[1.0])
    with pytest.raises(InputError, match=r"does not say the global batch .*: give it as --batch-size a=N"):
        read_log(folder)
    with pytest.raises(InputError, match="neither a gradient noise scale"):
        advise_on_logs(tmp_path, {"a": 8})
    with pytest.raises(InputError, match=r"holds no trainer_state.json"):
        advise_on_logs(state(tmp_path / "b" / "c" / "d", 8, steps=8, losses=[1.0]).parents[1], {})
    (folder / "trainer_state.json").write_text('{"log_history": 3}')
    with pytest.raises(InputError, match="is not the state of a Hugging Face Trainer"):
        read_log(folder, 8)
    said = state(tmp_path / "said", 16, steps=8, losses=[1.0])
    with pytest.raises(InputError, match="the log says a global batch of 16, --batch-size 8; leave it out"):
        read_log(said, 8)
    with pytest.raises(InputError, match="--batch-size 8: is not FOLDER=N"):
        batch_sizes(["8"])


def test_a_damaged_event_file_is_one_line_or_an_empty_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"not an event file at all")
    assert is_log(tmp_path)
    with pytest.raises(InputError, match=r"has no step in it yet|cannot read its event files"):
        read_log(tmp_path, 8)


def test_a_batch_is_found_by_name_or_path(tmp_path: Path) -> None:
    given = batch_sizes(["a=32", f"{tmp_path / 'b'}/=64"])
    assert batch_of(tmp_path / "a", given) == 32
    assert batch_of(tmp_path / "b", given) == 64
    assert batch_of(tmp_path / "c", given) is None


@pytest.mark.parametrize("size", [math.nan, math.inf, 0, -32, 10**400])
def test_a_logged_batch_that_is_no_number_of_examples_is_unknown(tmp_path: Path, size: float) -> None:
    folder = state(tmp_path / "run", None, steps=16, losses=[2.0, 1.0], global_batch_size=size)
    with pytest.raises(InputError, match="run: the log does not say the global batch"):
        read_log(folder)
    assert read_log(folder, 32).batch == 32


def test_a_log_without_a_step_says_so_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": -1, "loss": 2}, {"step": 0, "loss": 2}]}')
    with pytest.raises(InputError, match="has no step in it yet"):
        read_log(tmp_path)


def test_a_log_under_other_names_is_told_which_are_read(tmp_path: Path) -> None:
    folder = events(tmp_path / "other", {"Loss/train": [(1, 2.0), (2, 1.0)]})
    with pytest.raises(InputError, match="none under a name that is read: loss, train/loss"):
        read_log(folder, 32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 10**400])
def test_recorded_settings_that_are_no_numbers_are_unknown(tmp_path: Path, value: float) -> None:
    recorded = {"settings/lr": value, "settings/warmup_steps": value, "settings/reference_batch_size": value}
    state(tmp_path / "a", 8, steps=32, losses=[3.0, 2.0], **recorded)
    state(tmp_path / "b", 64, steps=16, losses=[3.0, 2.5])
    assert "the log of a has a rate in 2 of 32 steps" in logs_text(advise_on_logs(tmp_path, {}))
    assert [row.reference for row in load([tmp_path])] == [None, None]


def test_a_step_without_a_number_does_not_spoil_the_noise_scale(tmp_path: Path) -> None:
    folder = state(
        tmp_path / "a", 8, steps=64, losses=[2.0] * 32, **{"noise/gradient_square": 1.0, "noise/trace": 100.0}
    )
    whole = advise_on_logs(tmp_path, {})["runs"][0]["noise"]
    file = folder / "trainer_state.json"
    written = json.loads(file.read_text())
    written["log_history"][40]["noise/trace"] = math.nan
    file.write_text(json.dumps(written))
    found = advise_on_logs(tmp_path, {})["runs"][0]["noise"]
    assert whole is not None
    assert found is not None
    assert found["value"] == pytest.approx(whole["value"])


def test_a_diverged_run_is_no_proof_that_nothing_was_lost(tmp_path: Path) -> None:
    state(tmp_path / "a", 8, steps=64, losses=[3.0, 2.0])
    state(tmp_path / "b", 64, steps=8, losses=[3.0, math.nan])
    with pytest.raises(InputError, match="nor two runs at different batches with finite held-out losses"):
        advise_on_logs(tmp_path, {})
