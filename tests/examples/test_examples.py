"""Every example runs as its own first lines say, learns, and stays short."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ALONE = [sys.executable]
LOSS = re.compile(r"\b\d+\.\d{3}\b")

# How an example is started, and what it needs besides the package.
CASES = {
    "plain_loop": (ALONE, None),
    "adamw_to_lamb": (ALONE, None),
    "compiled_step": (ALONE, None),
    "hf_trainer": (ALONE, "accelerate"),
    "hf_trainer on two processes": (TORCHRUN, "accelerate"),
    "with_accelerate": (ALONE, "accelerate"),
    "with_accelerate on two processes": (TORCHRUN, "accelerate"),
    "with_lightning": (ALONE, "lightning"),
    "fsdp2": (TORCHRUN, None),
    "zero_redundancy": (TORCHRUN, None),
}


def output(case: str, folder: Path) -> str:
    """What the example prints, in a process of its own; the test fails with its error where it does not end well."""
    command, needed = CASES[case]
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    example = EXAMPLES / f"{case.split()[0]}.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(
        [*command, str(example)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.terminate()  # torchrun ends its ranks, too
    assert process.returncode == 0, err[-3000:]
    return out


def losses(printed: str) -> list[float]:
    """All losses in the order in which they were printed."""
    return [float(number) for line in printed.splitlines() if "loss" in line for number in LOSS.findall(line)]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("plain_loop", "fsdp2")])
def test_it_learns(case: str, tmp_path: Path) -> None:
    found = losses(output(case, tmp_path))
    assert len(found) >= 2
    # Where ten classes are guessed, the loss is 2.3; the Trainer's two start at 1.4 with so high a rate.
    assert found[-1] < 1.0, found
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.mark.slow
def test_shards_end_where_one_process_ends(tmp_path: Path) -> None:
    """FSDP2 sees the plain loop's examples from the plain loop's weights."""
    plain, sharded = losses(output("plain_loop", tmp_path)), losses(output("fsdp2", tmp_path))
    assert plain[-1] < 1.0
    assert plain == pytest.approx(sharded, abs=0.01)


def test_every_example_is_run_and_short() -> None:
    there = {path.stem: path.read_text(encoding="utf-8").count("\n") for path in EXAMPLES.glob("*.py")}
    assert set(there) == {case.split()[0] for case in CASES}
    assert {name: lines for name, lines in there.items() if lines >= 60} == {}


def test_every_example_says_how_it_is_run() -> None:
    for case, (command, _) in CASES.items():
        head = (EXAMPLES / f"{case.split()[0]}.py").read_text(encoding="utf-8").split('"""')[1]
        expected = "torchrun --standalone --nproc-per-node 2" if command is TORCHRUN else "python"
        assert f"{expected} examples/{case.split()[0]}.py" in head
