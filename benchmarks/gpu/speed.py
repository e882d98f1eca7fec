"""How fast: the optimizer by itself, BERT-large over precision and micro-batch, and attention."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from gpu import problems
from gpu.clocks import device_ms, host_ms, kernels, median_ms, whole_ms
from gpu.day import Day, Range, about
from gpu.problems import Problem, Steps
from torch.nn.functional import scaled_dot_product_attention

from anybatch.accelerators import find_accelerator
from anybatch.models.bert import pretraining_flops
from anybatch.optim import LAMB, param_groups

_STEPS = {
    "anybatch LAMB fused": (((4.3, 5.6), (3.0, 3.9)), ((0.2, 0.7), (0.2, 0.6))),
    "anybatch LAMB fused, clipped": (((4.7, 6.2), (3.3, 4.4)), ((0.2, 0.8), (0.2, 0.7))),
    "anybatch LAMB foreach": (((11, 16), (7, 12)), ((0.8, 4), (0.6, 4))),
    "anybatch LARS fused": (((3.0, 4.2), (2.1, 3.1)), ((0.15, 0.6), (0.1, 0.5))),
    "torch AdamW fused": (((3.0, 3.7), (2.1, 2.7)), ((0.15, 0.5), (0.1, 0.5))),
}
_SHAPES = ("bert-large", "resnet-50")

OPTIMIZER: dict[str, Range] = {
    **{
        f"{shapes}: {name}": about("ms", *ranges[place])
        for place, shapes in enumerate(_SHAPES)
        for name, ranges in _STEPS.items()
    },
    **{f"{shapes}: {name}, host": about("ms", (0, 6)) for shapes in _SHAPES for name in _STEPS},
    **{f"{shapes}: LAMB fused over its bytes' floor": about("times", (1, 1.25)) for shapes in _SHAPES},
    **{f"{shapes}: LAMB fused, kernels": about("launches", (1, 10)) for shapes in _SHAPES},
}


def optimizer(day: Day) -> None:
    """The optimizer step on the shapes of BERT-large and ResNet-50: kernels and host apart."""
    from gpu import optimizer_step

    for shapes, toy in zip(_SHAPES, ("bert-demo", "digits-lenet"), strict=True):
        found = optimizer_step.measure(
            toy if day.tiny else shapes, day.device, day.size(optimizer_step.SAMPLES, 1), compiled=False
        )
        day.note(shapes, found)
        rows = {row["name"]: row for row in found["rows"]}
        for name in _STEPS:
            day.figure(f"{shapes}: {name}", rows[name]["median_ms"])
            day.figure(f"{shapes}: {name}, host", rows[name]["host_ms"])
        fused = rows["anybatch LAMB fused"]
        day.figure(f"{shapes}: LAMB fused over its bytes' floor", 1 / fused["share_of_copy"])
        day.figure(f"{shapes}: LAMB fused, kernels", fused["launches"])
        del rows, found
        free()


WAYS = ("fp32", "tf32", "bf16", "bf16 compiled")
SHORT, LONG = (32, 64, 128, 256), (16, 32)


def _expected(way: str, micro_batch: int) -> Range:
    """Sequences of 128 tokens a second: bf16 is host-bound at 32."""
    rates = {"fp32": (150, 230), "tf32": (500, 750), "bf16": (900, 1_250), "bf16 compiled": (1_300, 1_750)}
    low, high = rates[way]
    return about("sequences/s", (low * (0.6 if micro_batch < 64 else 1.0), high))


def _sizes(way: str) -> tuple[int, ...]:
    """fp32 takes seconds for what bf16 takes a tenth of."""
    return SHORT[:2] if way == "fp32" else SHORT


BERT_LARGE: dict[str, Range] = {
    **{f"{way}, 128 tokens, {size}": _expected(way, size) for way in WAYS for size in _sizes(way)},
    **{f"{way}, 512 tokens, {size}": about("sequences/s", (180, 420)) for way in WAYS[2:] for size in LONG},
    **{f"{way}: memory at 128 tokens, {size}": about("GB", (5, 78)) for way in WAYS for size in _sizes(way)},
    "best share of the bf16 peak": about("share", (0.45, 0.7)),
    "bf16: kernels of a micro-batch": about("launches", (1_200, 3_000)),
    "bf16 compiled: kernels of a micro-batch": about("launches", (500, 2_000)),
    "bf16: GPU busy at 32": about("share", (0.4, 1.0)),
    "bf16 compiled: GPU busy at 128": about("share", (0.9, 1.0)),
    "bf16 compiled: first step": about("s", (5, 90)),
    "bf16: host time of a micro-batch at 128": about("ms", (5, 40)),
}


def bert_large(day: Day) -> None:
    """BERT-large's micro-batches: the slope of a step's time over their number, so that the step's tail is apart."""
    settings = problems.large(day.tiny)
    best = 0.0
    for way in WAYS:
        with _products(way):
            steps = _bert_steps(day, way)
            for length, sizes in ((128, _sizes(way)), (512, LONG if way in WAYS[2:] else ())):
                for size in _in_order(sizes)[:1] if day.tiny else _in_order(sizes):
                    problem = problems.bert(settings, day.size(length, 16 * length // 128))
                    rate = _rate(day, steps, problem, way, length, size)
                    if length == 128 and way.startswith("bf16"):
                        best = max(best, rate)
            if way.startswith("bf16"):
                _look_inside(day, steps, problems.bert(settings, day.size(128, 16)), way)
        del steps
        free()
    flops = best * pretraining_flops(settings, day.size(128, 16), problems.PREDICTIONS_A_TOKEN)
    card = find_accelerator(torch.cuda.get_device_name()) if day.cuda else None
    day.note("FLOP/s", flops)
    if card is None:
        day.none("best share of the bf16 peak", "no peak is known of this device")
    else:
        day.figure("best share of the bf16 peak", flops / card.peak_flops["bf16"])
    if day.tiny:
        for name in day.expected.keys() - day.values.keys() - day.reasons.keys():
            day.none(name, "left out of a tiny run")


def _in_order(sizes: tuple[int, ...]) -> list[int]:
    """128 first: the second size that compiled blocks see makes their batch dimension dynamic."""
    return sorted(sizes, key=lambda size: size != 128)


def _bert_steps(day: Day, way: str) -> Steps:
    settings = problems.large(day.tiny)
    problem = problems.bert(settings, day.size(128, 16))
    with day.device:
        model = problem.model()
    job = problems.job(
        problem,
        day.device,
        32,
        1,
        model=model,
        optimizer=lambda model: LAMB(param_groups(model), lr=1e-4, fused=True if day.cuda else None),
        precision="bf16" if way.startswith("bf16") else "fp32",
        compile=way == "bf16 compiled",
    )
    return Steps.of(job)


def _rate(day: Day, steps: Steps, problem: Problem, way: str, length: int, size: int) -> float:
    """Sequences a second of one size of micro-batch; 0 where it does not fit."""
    name = f"{way}, {length} tokens, {size}"
    micro_batch = day.size(size, 2)
    samples = 2 if way == "fp32" else day.size(3, 1)
    try:
        if day.cuda:
            torch.cuda.reset_peak_memory_stats()
        few, many = (problems.share(problem, micro_batch, count, day.device) for count in (1, 4))
        first = whole_ms(lambda: steps.take(few), day.device)
        if name == "bf16 compiled, 128 tokens, 128":
            day.figure("bf16 compiled: first step", first / 1e3)
        taken = [median_ms(whole_ms, partial(steps.take, given), day.device, samples) for given in (few, many)]
    except torch.OutOfMemoryError:
        taken = []
    if not taken:
        day.none(name, "out of memory")
        steps.job.optimizer.zero_grad(set_to_none=True)
        free()
        return 0.0
    each = max((taken[1] - taken[0]) / 3, 1e-3)
    day.figure(name, 1e3 * micro_batch / each)
    day.note(f"{name}: ms", {"micro-batch": each, "rest of a step": taken[0] - each})
    if length == 128 and day.cuda:
        day.figure(f"{way}: memory at 128 tokens, {size}", torch.cuda.max_memory_allocated() / 1e9)
    return 1e3 * micro_batch / each


def _look_inside(day: Day, steps: Steps, problem: Problem, way: str) -> None:
    """Kernels of a forward and a backward pass, how busy they keep the GPU, and how long the host takes."""

    def passes(given: Any) -> Callable[[], None]:
        def call() -> None:
            with steps.parallel.computing():
                sums, _ = steps.parallel.module(**given.micro_batches[0].inputs)
            torch.stack(list(sums.values())).sum().backward()

        return call

    for size, busy in ((32, "bf16: GPU busy at 32"), (128, "bf16 compiled: GPU busy at 128")):
        call = passes(problems.share(problem, day.size(size, 2), 1, day.device))
        call()
        ran = kernels(call, day.device)
        if size == 128:
            day.figure(f"{way}: kernels of a micro-batch", len(ran))
        if size == 128 and way == "bf16":
            day.figure("bf16: host time of a micro-batch at 128", median_ms(host_ms, call, day.device, day.size(5, 1)))
        if busy.startswith(f"{way}:"):
            taken = median_ms(whole_ms, call, day.device, day.size(5, 1))
            day.figure(busy, sum(us for _, us in ran) / 1e3 / taken)
    steps.job.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _products(way: str) -> Iterator[None]:
    """A block in which fp32 products take TF32 units, if `way` says so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if way == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


MASKS = ("no mask", "padded", "packed", "varlen")
ATTENTION: dict[str, Range] = {
    **{f"{mask}, 128 tokens": about("ms", (0.05, 2)) for mask in MASKS},
    **{f"{mask}, 512 tokens": about("ms", (0.1, 8)) for mask in MASKS},
    "first call of a new shape": about("ms", (0, 1_000)),
}


def attention(day: Day) -> None:
    """A layer's attention of BERT-large, forward and backward: 8,192 tokens by kind of mask, and shapes seen first."""
    dtype, heads, width = torch.bfloat16, day.size(16, 2), day.size(64, 8)
    for length in (128, 512):
        tokens = day.size(length, length // 8)
        rows = day.size(8_192, 128) // tokens
        shape = (rows, heads, tokens, width)
        for mask in MASKS:
            call = _attention(day, mask, shape, dtype)
            if call is None:
                day.none(f"{mask}, {length} tokens", "no GPU, or a version of torch without varlen_attn")
                continue
            day.figure(f"{mask}, {length} tokens", median_ms(device_ms, call, day.device, day.size(9, 1)))
            day.note(f"{mask}, {length} tokens: kernels", sorted({name[:160] for name, _ in kernels(call, day.device)}))
    firsts = []
    for rows in (3, 5, 7, 11, 13):
        call = _attention(day, "padded", (rows, heads, day.size(128, 16), width), dtype)
        assert call is not None
        firsts.append(whole_ms(call, day.device))
    day.note("first calls", firsts)
    day.figure("first call of a new shape", max(firsts))


def _attention(day: Day, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], None] | None:
    rows, heads, length, width = shape
    q, k, v = (torch.randn(*shape, device=day.device, dtype=dtype, requires_grad=True) for _ in range(3))
    if kind == "varlen":
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return None
        if not day.cuda:
            return None
        flat = [x.detach().transpose(1, 2).reshape(-1, heads, width).requires_grad_() for x in (q, k, v)]
        ends = torch.arange(0, rows * length + 1, length, device=day.device, dtype=torch.int32)
        return _both_ways(lambda: varlen_attn(*flat, ends, ends, length, length), flat)
    mask = None
    if kind == "padded":
        mask = torch.ones(rows, 1, 1, length, device=day.device, dtype=torch.bool)
        mask[::10, ..., length * 3 // 4 :] = False
        mask = mask.expand(rows, 1, length, length)
    if kind == "packed":
        numbers = torch.arange(length, device=day.device) // (length // 2)
        mask = (numbers[:, None] == numbers[None]).expand(rows, 1, length, length)
    return _both_ways(lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask), [q, k, v])


def _both_ways(forward: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> Callable[[], None]:
    towards = torch.randn_like(inputs[0])

    def call() -> None:
        torch.autograd.grad(forward(), inputs, towards)

    return call
