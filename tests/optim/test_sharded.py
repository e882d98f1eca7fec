"""Sharded over ranks in every layout, the parameters are those of one process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import sharded_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each of four ranks reports."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    script = Path(sharded_ranks.__file__)
    started = [
        subprocess.Popen([sys.executable, script, str(rank), folder], env=environment)
        for rank in range(sharded_ranks.WORLD)
    ]
    try:
        assert [process.wait(240) for process in started] == [0] * sharded_ranks.WORLD
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"steps-{rank}.pt", weights_only=False) for rank in range(sharded_ranks.WORLD)]


def flat(params: Any) -> Any:
    return torch.cat([p.detach().flatten().double() for p in params.values()])


COLLECTIVES = {"whole": 0, "replicate": 0, "tp-fsdp": 2}
CASES = [
    (layout, name, dtype)
    for layout in ("whole", "fsdp-4", "fsdp-3", "replicate", "hsdp", "tp-fsdp", "mixed", "columns")
    for name in sharded_ranks.OPTIMIZERS
    for dtype in sharded_ranks.DTYPES.get(name, (torch.float64,))
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("layout", "name", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_layouts_agree_with_one_process(ranks: Any, layout: Any, name: str, dtype: torch.dtype) -> None:
    gated = "gated" in name
    model = sharded_ranks.Even(dtype) if layout == "columns" else sharded_ranks.Model(dtype)
    control = sharded_ranks.OPTIMIZERS[name](model)
    sharded_ranks.train(model, control, nan_step=7 if gated else None)
    several = [reports[layout, name, dtype] for reports in ranks if (layout, name, dtype) in reports]
    assert len(several) == (3 if layout == "fsdp-3" else 4)
    expected = flat(model.state_dict())
    for report in several:
        error = (flat(report["params"]) - expected).norm() / expected.norm()
        assert error < (1e-10 if dtype is torch.float64 else 1e-6)
        assert report["skipped"] == int(gated)
        assert report["named"] == (["qkv.weight"] if gated else [])
        # One for the norms of a mesh, one more for clipping or the look at all gradients.
        clips = gated or name.startswith("lars")
        assert report["collectives"] == COLLECTIVES.get(layout, 1) * (2 if clips else 1)
        assert report["ratios"].keys() == control.trust_ratios().keys()
        for layer, ratio in control.trust_ratios().items():
            assert report["ratios"][layer] == pytest.approx(ratio, rel=1e-6)
    assert all(torch.equal(flat(report["params"]), flat(several[0]["params"])) for report in several)


STATES = [(old, new) for old in ("whole", "fsdp-4", "hsdp", "tp-fsdp") for new in ("whole", "fsdp-4", "tp-fsdp")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("old", "new"), STATES)
def test_states_move_between_layouts(ranks: Any, old: Any, new: Any) -> None:
    """Ten steps in one layout, the rest in another, with bf16 parameters and fp32 masters."""
    model = sharded_ranks.Model(torch.bfloat16)
    control = sharded_ranks.train(model, sharded_ranks.narrow(model))
    expected = flat({name: control.state[p]["master"] for name, p in model.named_parameters()})
    for reports in ranks:
        for by in ("full", "files") if new != "tp-fsdp" else ("files",):
            masters, steps = reports[old, new, by]
            assert (flat(masters) - expected).norm() / expected.norm() < 1e-6
            assert steps == {float(sharded_ranks.STEPS)}


def test_what_cannot_be_sharded_is_refused(ranks: Any) -> None:
    for reports in ranks:
        assert "FSDP1" in reports["fsdp1"]
        assert "fully_shard" in reports["fsdp1"]
        assert "0.0: placement P(sum)" in reports["partial"]
        assert "exp_avg of qkv.weight" in reports["foreign state"]
        assert "torch.distributed.checkpoint.state_dict" in reports["foreign state"]
