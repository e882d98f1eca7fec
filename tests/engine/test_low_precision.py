"""Weights that are kept in lower precision: the bits are those of autocast, which casts them in every pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.forked import run_script
from support.linear_job import parameters
from support.low_ranks import Words, reading_job, run_of
from torch import nn

from anybatch.engine.loss_scale import LossScale
from anybatch.engine.parallel import Parallel
from anybatch.engine.ranks import Ranks
from anybatch.errors import Reached

KEPT: dict[str, Any] = {"low_precision_weights": True}


def test_a_run_has_the_bits_of_a_plain_loop_under_autocast(tmp_path: Path) -> None:
    job, plain = reading_job(**KEPT), reading_job()
    run_of(job, tmp_path / "run")
    phase, model, statistics = plain.phases[0], plain.model.train(), plain.model.norm
    for step in range(plain.num_steps):
        plain.optimizer.param_groups[0]["lr"] = plain.optimizer.param_groups[1]["lr"] = 0.05 * phase.schedule(step)
        before = [b.clone() for b in statistics.buffers()]
        seen, size = [], 3
        # The gradient noise of a step wants two micro-batches at least, and these are four.
        for low in range(0, 10, size):
            batch = Words().read(10 * step + low, min(size, 10 - low))
            with torch.autocast("cpu", torch.bfloat16):
                losses, _ = model(**batch.inputs)
            (losses["next"] / 20).backward()
            seen.append([b.double() for b in statistics.buffers()])
            for buffer, old in zip(statistics.buffers(), before, strict=True):
                buffer.copy_(old)
        for buffer, values in zip(statistics.buffers(), zip(*seen, strict=True), strict=True):
            buffer.copy_(torch.stack(values).sum(0) / len(seen))
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.stack([g.double().square().sum() for g in grads]).sum().sqrt().item()
        if norm > 1:
            torch._foreach_mul_(grads, 1 / norm)
        plain.optimizer.step()
        plain.optimizer.zero_grad()
    assert torch.allclose(parameters(job), parameters(plain), rtol=0, atol=1e-6)
    assert all(p.dtype == torch.float32 for p in job.model.parameters())


def test_no_bit_of_a_run_depends_on_where_weights_are_cast(tmp_path: Path) -> None:
    kept, cast = reading_job(**KEPT), reading_job()
    lines, noise = [], []
    for job, folder in ((kept, tmp_path / "kept"), (cast, tmp_path / "cast")):
        run = run_of(job, folder)
        lines.append([(event["loss"], event["grad_norm"]) for event in run.metrics("train")])
        lines[-1] += [(event["loss"], event["step"]) for event in run.metrics("eval")]
        noise.append([event["noise_trace"] for event in run.metrics("noise")])
    assert lines[0] == lines[1]
    assert noise[0] == pytest.approx(noise[1], rel=1e-6), "sums of squares, which depend on where a tensor begins"
    assert (len(lines[0]), len(noise[0])) == (8 + 4, 2)
    assert torch.equal(parameters(kept), parameters(cast))
    assert torch.equal(kept.model.norm.running_var, cast.model.norm.running_var)


def test_linear_layers_and_convolutions_are_kept_and_what_others_share_is_not() -> None:
    job = reading_job(**KEPT)
    parallel = Parallel(job.model, Ranks(), job.execution)
    dtypes = {name: p.dtype for name, p in parallel.module.named_parameters()}
    low = {name for name, dtype in dtypes.items() if dtype == torch.bfloat16}
    assert low == {
        f"{layer}.{kind}" for layer in ("layers.0.0", "layers.1.0", "spare") for kind in ("weight", "bias")
    } | {"decoder.bias"}
    shared = [
        (p, q) for p, q in zip(parallel.module.parameters(), job.model.parameters(), strict=True) if p.dtype == q.dtype
    ]
    assert all(p.data_ptr() == q.data_ptr() for p, q in shared), "the others take no memory"
    convolutions = Parallel(nn.Sequential(nn.Conv2d(1, 2, 3)), Ranks(), job.execution).module
    assert {p.dtype for p in convolutions.parameters()} == {torch.bfloat16}


def test_a_run_that_is_stopped_goes_on_bit_for_bit_from_fp32(tmp_path: Path) -> None:
    whole = reading_job(**KEPT)
    run_of(whole, tmp_path / "whole")
    with pytest.raises(Reached):
        run_of(reading_job(**KEPT, stop_after_steps=4), tmp_path / "parts")
    saved = load_file(tmp_path / "parts/checkpoints/step-00000004/model-00000.safetensors")
    assert {value.dtype for name, value in saved.items() if "num_batches" not in name} == {torch.float32}
    resumed = reading_job(**KEPT)
    run = run_of(resumed, tmp_path / "parts")
    assert torch.equal(parameters(resumed), parameters(whole))
    exported = torch.load(run.model / "model.pt")
    assert torch.equal(exported["layers.0.0.weight"], resumed.model.layers[0][0].weight)


def test_a_loss_scale_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU fp16 computes like on a GPU, only slower."""
    monkeypatch.setattr("anybatch.engine.loss_scale._GROWS_AFTER", 3)
    scales: list[list[float]] = []
    update = LossScale.update
    monkeypatch.setattr(LossScale, "update", lambda self, skipped: (update(self, skipped), scales.append(self.state)))
    whole = reading_job(**KEPT, precision="fp16")
    run_of(whole, tmp_path / "whole")
    once, scales[:] = list(scales), []
    with pytest.raises(Reached):
        run_of(reading_job(**KEPT, precision="fp16", stop_after_steps=4), tmp_path / "parts")
    resumed = reading_job(**KEPT, precision="fp16")
    run_of(resumed, tmp_path / "parts")
    assert scales == once
    assert len({scale for scale, _ in once}) > 1
    assert torch.equal(parameters(resumed), parameters(whole))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("low")
    run_script(Path(__file__).parents[1] / "support" / "low_ranks.py", folder, limit_s=270)
    return folder


@pytest.mark.parametrize("sent", ["", "-sent-bf16"])
def test_ranks_get_the_same_bits(two_ranks: Path, sent: str) -> None:
    kept, cast = (torch.load(two_ranks / f"{name}{sent}.pt") for name in ("kept", "cast"))
    assert torch.equal(kept, cast)


def test_fsdp_gathers_in_bf16_what_has_no_batch_norm(two_ranks: Path) -> None:
    cast, with_statistics, gathered = (
        torch.load(two_ranks / f"{name}.pt") for name in ("cast", "fsdp-batch-norm", "fsdp")
    )
    assert (with_statistics - cast).norm() < 0.01 * cast.norm()
    one = reading_job(4, batch_norm=False)
    run_of(one, two_ranks / "one")
    assert (gathered - parameters(one)).norm() < 0.05 * gathered.norm()
