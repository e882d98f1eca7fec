"""The first sections: the machine, the step against a CPU, Triton, ranks with NCCL, and the texts of errors."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu import problems
from gpu.clocks import device_ms, host_ms, kernels, median_ms, syncs, whole_ms
from gpu.commands import anybatch
from gpu.day import Day, Range, Skipped, about, needed
from gpu.problems import Problem, Steps
from torch import nn

from anybatch.engine import Ranks, join_ranks
from anybatch.environment import describe_environment
from anybatch.models.bert import BertSettings
from anybatch.models.classifier import ClassifierSettings
from anybatch.models.gpt import GptSettings

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("bert", "gpt", "questions", "resnet20")

ENVIRONMENT: dict[str, Range] = {
    "copy": about("TB/s", (2.5, 3.4), (3.6, 4.8)),
    "bf16 product": about("TFLOP/s", (600, 990), (650, 990)),
    "launch": about("us", (0, 5)),
    "C compiler": needed("found", 1, 1),
}


def environment(day: Day) -> None:
    """What the machine is: versions, tools, and what a copy, a product and a launch take."""
    day.note("environment", describe_environment())
    day.note("tools", {name: shutil.which(name) for name in ("gcc", "nvcc", "nvidia-smi", "compute-sanitizer")})
    day.figure("C compiler", int(bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))))
    if (smi := shutil.which("nvidia-smi")) and day.cuda:
        asked = [smi, "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"]
        day.note("nvidia-smi", subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout)
    count = day.size(1 << 28, 1 << 16)
    source, target = torch.ones(2, count, device=day.device)
    taken = median_ms(device_ms, lambda: target.copy_(source), day.device, 9)
    day.figure("copy", 8 * count / taken / 1e9)
    size = day.size(8_192, 64)
    a, b = torch.randn(2, size, size, device=day.device, dtype=torch.bfloat16)
    taken = median_ms(device_ms, lambda: a @ b, day.device, 9)
    day.figure("bf16 product", 2 * size**3 / taken / 1e9)
    x, times = torch.zeros(1, device=day.device), day.size(10_000, 100)
    taken = median_ms(host_ms, lambda: [x.add_(1) for _ in range(times)], day.device, 3)
    day.figure("launch", 1e3 * taken / times)


STEP: dict[str, Range] = {
    **{f"{kind}: fp32 loss, distance from the CPU": needed("relative", 0, 1e-4) for kind in KINDS},
    **{f"{kind}: bf16 loss, distance from the CPU": needed("relative", 0, 2e-2) for kind in KINDS},
    **{f"{kind}: syncs a step": needed("syncs", 0, 2 if kind == "resnet20" else 1) for kind in KINDS},
    **{f"{kind}: syncs a micro-batch": needed("syncs", 0, 0) for kind in KINDS},
}


def step(day: Day) -> None:
    """Three steps of each kind of model against the same on the CPU; then where a step waits for the device."""
    for kind in KINDS:
        problem, micro_batch = _small(kind, day)
        with _exact_products():
            on_cpu = _losses(problem, torch.device("cpu"), micro_batch, "fp32")
            here = _losses(problem, day.device, micro_batch, "fp32")
        day.figure(f"{kind}: fp32 loss, distance from the CPU", _distance(here, on_cpu))
        rounded = _losses(problem, day.device, micro_batch, "bf16")
        day.figure(f"{kind}: bf16 loss, distance from the CPU", _distance(rounded, on_cpu))
        day.note(f"{kind}: losses", {"cpu": on_cpu, "fp32": here, "bf16": rounded})
    for kind in KINDS:
        problem, micro_batch = _small(kind, day)
        steps = Steps.of(problems.job(problem, day.device, 4 * micro_batch, 1, precision="bf16"))
        few, many = (problems.share(problem, micro_batch, count, day.device) for count in (2, 4))
        steps.take(few)
        in_few, in_many = (syncs(partial(steps.take, given), day.device) for given in (few, many))
        day.note(f"{kind}: where it waits", dict(in_few))
        if not day.cuda:
            for what in ("step", "micro-batch"):
                day.none(f"{kind}: syncs a {what}", "no GPU: a CPU is never waited for")
            continue
        each = (in_many.total() - in_few.total()) / 2
        day.figure(f"{kind}: syncs a step", in_few.total() - 2 * each)
        day.figure(f"{kind}: syncs a micro-batch", each)


def _small(kind: str, day: Day) -> tuple[Problem, int]:
    width, heads, words, length = (16, 2, 50, 16) if day.tiny else (256, 4, 8_000, 128)
    encoder = BertSettings(
        vocabulary_size=words, hidden_size=width, num_layers=2, num_heads=heads, max_positions=length
    )
    micro_batch = day.size(32, 4)
    if kind == "bert":
        return problems.bert(encoder, length), micro_batch
    if kind == "questions":
        return problems.questions(encoder, length), micro_batch
    if kind == "gpt":
        return problems.gpt(
            GptSettings(vocabulary_size=words, hidden_size=width, num_layers=2, num_heads=heads, max_positions=length),
            length,
        ), micro_batch
    settings = ClassifierSettings("resnet20", 3, 32, 10, width=day.size(16, 4))
    return problems.images(settings), day.size(128, 4)


def _losses(problem: Problem, device: torch.device, micro_batch: int, precision: str) -> list[float]:
    ranks = Ranks()
    ranks.device = device
    steps = Steps.of(problems.job(problem, device, 2 * micro_batch, 3, precision=precision), ranks)
    shares = [problems.share(problem, micro_batch, 2, device, start=10 * number) for number in range(3)]
    return [sum(steps.take(given).losses.values()) for given in shares]


def _distance(found: list[float], expected: list[float]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(abs(a - b) / abs(b) if math.isfinite(a) else math.inf for a, b in pairs)


@contextmanager
def _exact_products() -> Iterator[None]:
    """A block in which fp32 is fp32 in convolutions, too."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


TRITON: dict[str, Range] = {
    "check": needed("passed", 1, 1),
    "tests": needed("passed", 1, 1),
    "compute-sanitizer": needed("errors", 0, 0),
}


def triton(day: Day) -> None:
    """The fused step against float64, its tests on the GPU, and one step under compute-sanitizer."""
    from gpu import optimizer_step

    if day.tiny:
        settings = optimizer_step.LAMB_SETTINGS[:1], optimizer_step.LARS_SETTINGS[:1]
        found = optimizer_step.check(day.device, [1, 33, 1_001], *settings)
    else:
        found = optimizer_step.check(day.device)
    day.note("distances", found)
    day.figure("check", 1)
    tests = ROOT / "tests" / "optim" / "kernels" / "test_triton.py"
    assert tests.is_file(), tests
    day.needs_gpu("these tests run interpreted with all others")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    if importlib.util.find_spec("pytest") is None:
        day.none("tests", "pytest is not installed")
    else:
        # The project's own options name plug-ins that may be missing.
        asked = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=--import-mode=importlib", "-W", "default",
                 "-p", "no:cacheprovider", str(tests)]  # fmt: skip
        ran = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        day.note("tests", (ran.stdout + ran.stderr)[-4_000:])
        day.figure("tests", int(ran.returncode == 0))
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise Skipped("compute-sanitizer is not installed")
    asked = [sanitizer, "--error-exitcode", "9", sys.executable, str(Path(__file__).with_name("optimizer_step.py")),
             "--one-step"]  # fmt: skip
    ran = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    day.note("compute-sanitizer", (ran.stdout + ran.stderr)[-4_000:])
    day.figure("compute-sanitizer", int(ran.returncode != 0))


RANKS: dict[str, Range] = {
    "gradient sum, fp32: distance": needed("absolute", 0, 1e-6),
    "gradient sum, bf16: distance": needed("relative", 0, 8e-3),
    "fsdp on one rank: distance of the losses": needed("relative", 0, 1e-5),
    "fsdp on one rank: parameters that moved": needed("share", 0.99, 1),
    "tail of a step": about("ms", (5, 25)),
    "tail of a step, fsdp": about("ms", (10, 60)),
}


def ranks(day: Day) -> None:
    """One rank with a process group: sums of gradients, FSDP2 against a whole copy, and what a step costs beside
    its forward and backward passes."""
    from anybatch.engine.gradient_sum import GradientSum

    url = f"file://{day.scratch}/meeting?rank=0&world_size=1"
    with join_ranks(url=url) as one:
        for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
            net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).to(day.device)
            unused = nn.Linear(4, 4).to(day.device)
            summed = GradientSum([*net.parameters(), *unused.parameters()], one, dtype)
            x = torch.randn(8, 64, device=day.device)
            expected = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
            summed.begin()
            net(x).square().mean().backward()
            summed.finish()
            distance = max((p.grad - g).abs().max().item() for p, g in zip(net.parameters(), expected, strict=True))
            scale = max(g.abs().max().item() for g in expected)
            assert all(p.grad is None for p in unused.parameters()), "a parameter without a gradient got one"
            day.figure(f"gradient sum, {name}: distance", distance if dtype is None else distance / scale)
        settings = problems.large(day.tiny, dropout=0.0, layers=4)
        problem, micro_batch = problems.bert(settings, day.size(128, 16)), day.size(16, 4)
        losses = {}
        for way in ("none", "fsdp"):
            torch.manual_seed(0)
            steps = Steps.of(problems.job(problem, day.device, 2 * micro_batch, 3, parallel=way), one)
            before = [p.detach().clone() for p in steps.job.model.parameters()]
            shares = [problems.share(problem, micro_batch, 2, day.device, start=number) for number in range(3)]
            losses[way] = [sum(steps.take(given).losses.values()) for given in shares]
            after = list(steps.job.model.parameters())
            moved = sum(not torch.equal(_whole(p), _whole(q)) for p, q in zip(before, after, strict=True))
        day.note("losses", losses)
        day.figure("fsdp on one rank: distance of the losses", _distance(losses["fsdp"], losses["none"]))
        day.figure("fsdp on one rank: parameters that moved", moved / len(after))
        for way, name in (("none", "tail of a step"), ("fsdp", "tail of a step, fsdp")):
            _tail(day, one, way, name)


def _tail(day: Day, one: Ranks, way: str, name: str) -> None:
    """What a step of BERT-large takes beside its micro-batches, and the kernels of one."""
    problem, micro_batch = problems.bert(problems.large(day.tiny), day.size(128, 16)), day.size(16, 4)
    steps = Steps.of(problems.job(problem, day.device, micro_batch, 3, parallel=way, precision="bf16"), one)
    shares = {count: problems.share(problem, micro_batch, count, day.device) for count in (1, 3)}
    taken = {
        count: median_ms(whole_ms, partial(steps.take, given), day.device, day.size(5, 1))
        for count, given in shares.items()
    }
    day.figure(name, taken[1] - (taken[3] - taken[1]) / 2)
    ran = kernels(partial(steps.take, shares[1]), day.device)
    day.note(f"{name}: kernels by time", _heaviest(ran))
    day.note(f"{name}: collectives", sorted({kernel for kernel, _ in ran if "nccl" in kernel.lower()}))


def _whole(p: Any) -> torch.Tensor:
    return p.full_tensor() if hasattr(p, "full_tensor") else p


def _heaviest(ran: list[tuple[str, float]], count: int = 20) -> dict[str, float]:
    """The kernels that take longest together, in milliseconds."""
    total: dict[str, float] = {}
    for name, taken in ran:
        total[name[:120]] = total.get(name[:120], 0.0) + taken / 1e3
    return dict(sorted(total.items(), key=lambda item: -item[1])[:count])


ERRORS: dict[str, Range] = {
    "more processes than GPUs: exit code": needed("code", 2, 2),
    "more processes than GPUs: lines": needed("lines", 1, 1),
    "two ranks on one GPU: told as a lost rank": needed("times", 0, 0),
}

_DUPLICATE = """
import os, sys
from anybatch.engine import join_ranks
from anybatch.engine import ranks
import torch
ranks.local_device = lambda: torch.device("cuda", 0)
with join_ranks(url=f"file://{sys.argv[1]}?rank={sys.argv[2]}&world_size=2") as here:
    here.device = torch.device("cuda", 0)
    torch.distributed.all_reduce(torch.ones(4, device="cuda:0"))
"""


def errors(day: Day) -> None:
    """What a user reads who starts more processes than there are GPUs, or two on one."""
    if day.cuda:
        more = str(torch.cuda.device_count() + 1)
        asked = ["train", "digits-lenet", "--nproc", more, "--run", str(day.scratch / "more")]
        ran = anybatch(day, *asked)
        code, text = ran.code, ran.text
    else:
        code, text = _pretended()
    day.note("more processes than GPUs", text[-2_000:])
    day.figure("more processes than GPUs: exit code", code)
    day.figure("more processes than GPUs: lines", len([line for line in text.splitlines() if "error" in line]))
    day.needs_gpu("NCCL is asked for its own text")
    asked = [sys.executable, "-c", _DUPLICATE, str(day.scratch / "duplicate")]
    pair = [
        subprocess.Popen([*asked, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    told = "".join(_said(process) for process in pair)
    day.note("two ranks on one GPU", told[-4_000:])
    day.figure("two ranks on one GPU: told as a lost rank", told.count("lost contact"))


def _said(process: subprocess.Popen[str]) -> str:
    """All that a process printed; one that waits for ever is ended."""
    try:
        return process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] + "\n(ended after 20 s)"


def _pretended() -> tuple[int, str]:
    """The same error from a machine with one GPU that is not there."""
    from unittest.mock import patch

    from anybatch.engine.devices import local_device
    from anybatch.errors import InputError

    one = patch.multiple(torch.cuda, is_available=lambda: True, device_count=lambda: 1)
    try:
        with one, patch.dict(os.environ, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}):
            local_device()
    except InputError as error:
        return 2, f"error: {error}"
    return 0, ""
