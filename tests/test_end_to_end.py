"""Text to shards to pretraining to questions to a page, as a user does it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import anybatch

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
            file.write(json.dumps({"text": document.text}) + "\n")
    result = anybatch(
        "data", "prepare", "text.jsonl.gz", "--out", "shards", "--vocabulary-size", "512", "--json", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["train"]["documents"] == 57
    return folder / "shards"


def test_from_text_to_a_page(shards: Path, tmp_path: Path) -> None:
    inspected = json.loads(anybatch("data", "inspect", shards, "--json", cwd=tmp_path).stdout)
    assert inspected["train"]["documents"] == 57
    assert "[MASK]" in " ".join(inspected["examples"])

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
