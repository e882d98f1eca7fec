"""On two processes under torchrun, every library ends where a loop by hand on one process ends, also when resumed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import two_processes
from support.loops import BATCH, MICRO_BATCH, by_hand, network

from anybatch import LAMB, GradientNoiseScale, param_groups

pytestmark = pytest.mark.slow
NEEDED = {
    "trainer": "transformers",
    "trainer_fsdp2": "transformers",
    "accelerate": "accelerate",
    "accelerate_fsdp2": "accelerate",
    "lightning": "lightning",
    "plain": "torch",
}


def launched(library: str, folder: Path) -> dict[str, Any]:
    """What rank 0 found."""
    if importlib.util.find_spec(NEEDED[library]) is None:
        pytest.skip(f"{NEEDED[library]} is not installed")
    script = Path(two_processes.__file__)
    paths = [str(script.parents[1]), *filter(None, sys.path)]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    with subprocess.Popen(
        [*command, library, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=200)
        finally:
            process.terminate()
    assert process.returncode == 0, said[-4000:]
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("library", NEEDED)
def test_it_ends_and_measures_as_a_loop_by_hand(library: str, tmp_path: Path) -> None:
    found = launched(library, tmp_path)
    assert found["accumulation"] == 2
    run, model = two_processes.TUNED.at(BATCH), network()
    optimizer = LAMB(param_groups(model, 0.01), lr=run.lr)
    schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, run.schedule)
    if library.startswith("trainer"):
        from transformers import get_scheduler

        schedule = get_scheduler("linear", optimizer, run.warmup_steps, run.num_steps)
    noise = GradientNoiseScale(model, every=2)
    expected = by_hand(
        model, optimizer, schedule, run.num_steps, lambda: noise.micro_batch(MICRO_BATCH), noise.step, clip=0.05
    )
    whole, resumed = (torch.cat([p.flatten() for p in found[name]]) for name in ("whole", "resumed"))
    flat = torch.cat([p.flatten() for p in expected])
    assert (whole - flat).norm() / flat.norm() < 1e-5
    if library == "plain":
        assert (resumed - flat).norm() / flat.norm() < 1e-5
    else:
        assert torch.equal(resumed, whole), "resumed from its middle, with weights_only=True"
        last = found["log"][-1]
        ratios = [each.ratio for each in optimizer.trust_ratios().values() if each.ratio != 1]
        assert last["trust_ratio/max"] == pytest.approx(max(ratios), rel=1e-3)
        # Lightning's sampler deals the same examples out one by one; FSDP2 shows a step's first micro-batch alone.
        if library in ("trainer", "accelerate"):
            assert last["noise/scale"] == pytest.approx(noise.estimate().value, rel=1e-3)
        elif library != "trainer_fsdp2":  # which has no sync_each_batch
            assert last["noise/trace"] > 0
