"""Text to shards to pretraining to questions to a page, as a user does it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.command_line import anybatch, started_by

from anybatch.runs import Run

pytestmark = pytest.mark.slow

SMALL = ["--set", "reference.num_examples=512", "--set", "engine.num_evals=2", "--set", "data.num_held_out=64"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The standard library's own prose, prepared from a compressed JSON-lines file."""
    import gzip

    from anybatch.data.builtin import python_documents

    folder = tmp_path_factory.mktemp("text")
    with gzip.open(folder / "text.jsonl.gz", "wt", encoding="utf-8") as file:
        for _, document in zip(range(60), python_documents(), strict=False):
            file.write(json.dumps({"text": document}) + "\n")
    result = anybatch(
        "data", "prepare", "text.jsonl.gz", "--out", "shards", "--vocabulary-size", "512", "--json", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["train"]["documents"] == 57
    return folder / "shards"


def test_from_text_to_a_page(shards: Path, tmp_path: Path) -> None:
    inspected = json.loads(anybatch("data", "inspect", shards, "--json", cwd=tmp_path).stdout)
    assert inspected["train"]["documents"] == 57
    assert "[MASK→" in " ".join(inspected["examples"])

    for size in ("16", "64"):
        trained = anybatch(
            "train", "bert-demo", "--run", f"runs/b{size}", "--batch-size", size, *SMALL,
            "--set", f"data.path={shards}", cwd=tmp_path,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr
    first, second = (json.loads((tmp_path / f"runs/b{size}/result.json").read_text()) for size in ("16", "64"))
    assert (first["num_steps"], second["num_steps"]) == (32, 8)
    assert second["lr"] == pytest.approx(2 * first["lr"])

    again = json.loads(anybatch("eval", "runs/b16", "--json", cwd=tmp_path).stdout)
    assert again["loss"] == pytest.approx(first["final"]["loss"], rel=1e-6)

    answered = anybatch(
        "train", "squad-demo", "--run", "runs/answers", "--set", "model.path=runs/b16",
        "--set", "reference.num_examples=64", "--set", "reference.num_epochs=null", "--set", "engine.num_evals=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert answered.returncode == 0, answered.stderr
    final = json.loads((tmp_path / "runs/answers/result.json").read_text())["final"]
    assert 0 <= final["exact_match"] <= final["f1"] <= 100
    scores = json.loads(anybatch("eval", "runs/answers", "--json", cwd=tmp_path).stdout)
    assert scores["f1"] == pytest.approx(final["f1"])

    assert anybatch("report", "runs", "-o", "page.html", cwd=tmp_path).returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "LAMB" in page
    assert "F1" in page


def test_a_finished_model_loads_with_transformers(shards: Path, tmp_path: Path) -> None:
    trained = anybatch(
        "train", "bert-demo", "--run", "run", "--batch-size", "64", *SMALL, "--set", f"data.path={shards}", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    output = model(**tokenizer("Return a list of the names.", return_tensors="pt"))
    assert output.last_hidden_state.shape[-1] == 64


def test_a_run_that_is_asked_to_stop_exits_with_75_and_resumes(shards: Path, tmp_path: Path) -> None:
    arguments = ["train", "bert-demo", "--set", "reference.num_examples=2048", "--set", f"data.path={shards}",
                 "--set", "engine.num_evals=1", "--set", "data.num_held_out=64"]  # fmt: skip
    command = [sys.executable, "-m", "anybatch", *arguments, "--run", "stopped"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        metrics = tmp_path / "stopped" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count('"train"') >= 1):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, error
    assert "--resume" in error.splitlines()[-1]
    assert json.loads((tmp_path / "stopped" / "status.json").read_text())["outcome"] == "stopped"

    assert anybatch(*arguments, "--run", "stopped", cwd=tmp_path).returncode == 2  # without --resume: in use
    changed = anybatch(*arguments, "--run", "stopped", "--resume", "--set", "seed=1", cwd=tmp_path)
    assert changed.returncode == 2
    assert "started with seed = 0, not 1" in changed.stderr
    assert anybatch(*arguments, "--run", "stopped", "--resume", cwd=tmp_path).returncode == 0
    assert anybatch(*arguments, "--run", "whole", cwd=tmp_path).returncode == 0
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("stopped", "whole")]
    assert weights[0] == weights[1]


ON_TWO = ("--nproc=2", "--set=engine.micro_batch_size=3")


def small_run(shards: Path) -> list[str]:
    """Fifty steps of a batch that grows from 16 to 25 examples, saved every ten."""
    settings = ["reference.num_examples=1000", "ramp=16@0.32,20@0.28,25@0.4", "engine.num_evals=1",
                "data.num_held_out=64", "engine.checkpoint_every_steps=10", f"data.path={shards}"]  # fmt: skip
    return ["train", "bert-demo", *(f"--set={setting}" for setting in settings)]


def weights(run: Path) -> np.ndarray:
    """All parameters of a finished run as one vector."""
    tensors = load_file(run / "model" / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)]).astype(np.float64)


def checksums(run: Path) -> list[str]:
    return [event["examples_checksum"] for event in Run(run).metrics("train")]


@pytest.fixture(scope="module")
def on_two(shards: Path) -> Path:
    """The run on two ranks, in micro-batches of three."""
    result = anybatch(*small_run(shards), *ON_TWO, "--run=on-two", cwd=shards.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("run "), result.stdout
    return shards.parent / "on-two"


def test_several_processes_train_the_same_model(shards: Path, on_two: Path, tmp_path: Path) -> None:
    """Micro-batches and ranks that do not divide the batch, whole and sharded."""
    assert anybatch(*small_run(shards), "--run=one", cwd=tmp_path).returncode == 0
    sharded = anybatch(*small_run(shards), *ON_TWO, "--set=engine.parallel=fsdp", "--run=sharded", cwd=tmp_path)
    assert sharded.returncode == 0, sharded.stderr
    one = weights(tmp_path / "one")
    for run in (on_two, tmp_path / "sharded"):
        assert np.linalg.norm(weights(run) - one) / np.linalg.norm(one) < 1e-5
        assert checksums(run) == checksums(tmp_path / "one")


def test_a_killed_rank_is_relaunched_and_the_run_ends_bit_for_bit(shards: Path, on_two: Path, tmp_path: Path) -> None:
    train = [*small_run(shards), *ON_TWO]
    command = [sys.executable, "-m", "anybatch", *train, "--run=killed", "--relaunch=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        wait_for(process, lambda: (tmp_path / "killed" / "checkpoints" / "step-00000020").is_dir())
        os.kill(next(number for number, rank in started_by(process.pid).items() if rank == 1), signal.SIGKILL)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert "rank 1 was ended by SIGKILL" in error
    assert "starting again (1 of 1)" in error
    assert np.array_equal(weights(tmp_path / "killed"), weights(on_two))
    assert checksums(tmp_path / "killed") == checksums(on_two)
    assert len(Run(tmp_path / "killed").metrics("start")) == 2


def test_processes_that_are_asked_to_stop_save_and_exit_with_75(shards: Path, tmp_path: Path) -> None:
    """By Ctrl-C at the supervisor, and by SIGTERM at a bare torchrun."""
    train = [*small_run(shards), "--set=reference.num_examples=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, command, number, code in (
        ("supervised", [sys.executable, "-m", "anybatch", *train, "--nproc=2"], signal.SIGINT, 75),
        ("bare", [*torchrun, "-m", "--", "anybatch", *train], signal.SIGTERM, None),
    ):  # fmt: skip
        process = subprocess.Popen(
            [*command, f"--run={name}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            metrics = tmp_path / name / "metrics.jsonl"
            wait_for(process, lambda metrics=metrics: metrics.exists() and '"train"' in metrics.read_text())
            process.send_signal(number)
            _, error = process.communicate(timeout=100)
        finally:
            process.kill()
        assert code is None or process.returncode == code, error
        status = json.loads((tmp_path / name / "status.json").read_text())
        assert status["outcome"] == "stopped", (status, error)
        steps = status["step"]
        assert (tmp_path / name / "checkpoints" / f"step-{steps:08d}" / "state.json").is_file()
        assert number.name in status["message"]
        if code is not None:
            assert error.splitlines()[-1] == f"anybatch: error: {status['message']}"


def test_ranks_whose_supervisor_is_killed_save_and_end(shards: Path, tmp_path: Path) -> None:
    train = [*small_run(shards), *ON_TWO, "--set=reference.num_examples=100000", "--run=orphaned"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anybatch", *train], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ranks: list[int] = []
    status = tmp_path / "orphaned" / "status.json"
    try:
        metrics = tmp_path / "orphaned" / "metrics.jsonl"
        wait_for(process, lambda: metrics.exists() and '"train"' in metrics.read_text())
        ranks = list(started_by(process.pid))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
    ended = json.loads(status.read_text())
    assert ended["outcome"] == "stopped"
    assert (tmp_path / "orphaned" / "checkpoints" / f"step-{ended['step']:08d}" / "state.json").is_file()


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
