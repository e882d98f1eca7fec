"""The fused CPU step beside PyTorch's fused AdamW, in one process, interleaved: medians, bytes and ratios as JSON.

    python benchmarks/cpu_step.py bert-base --threads 2 [--busy] [--rounds 9]

--busy keeps one core occupied by another process meanwhile, which is where barriers show.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from anybatch import LAMB, LARS
from anybatch.optim.kernels.cpu import unavailable


def bert(layers: int, width: int, words: int = 30_522) -> list[tuple[int, ...]]:
    """The shapes of BERT for pretraining, its output layer tied to the embedding."""
    block = [*[(width, width), (width,)] * 4, (width,), (width,), (4 * width, width), (4 * width,)]
    block += [(width, 4 * width), (width,), (width,), (width,)]
    head = [(width, width), (width,), (width, width), (width,), (width,), (width,), (words,), (2, width), (2,)]
    return [(words, width), (512, width), (2, width), (width,), (width,), *block * layers, *head]


def resnet50() -> list[tuple[int, ...]]:
    """The shapes of ResNet-50 for ImageNet."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    before = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, before, 1, 1))
            for shape in convolutions:
                shapes += [shape, shape[:1], shape[:1]]
            before = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


SHAPES: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "bert-large": lambda: bert(24, 1024),
    "bert-base": lambda: bert(12, 768),
    "resnet-50": resnet50,
    "small-tensors": lambda: [(1000,)] * 10_000,
    "tiny": lambda: [(64, 16), (64,), (10, 64), (10,), (10,)],
}
CONTENDERS = {
    "torch AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-4, weight_decay=0.01, fused=True),
    "LAMB fused": lambda params: LAMB(params, lr=1e-4, fused=True),
    "LAMB fused, clipped": lambda params: LAMB(params, lr=1e-4, fused=True, max_grad_norm=1.0),
    "LARS fused": lambda params: LARS(params, 1e-4, weight_decay=0.01, fused=True),
    "LAMB plain": lambda params: LAMB(params, lr=1e-4, fused=False),
}


def occupy(core_seconds: float) -> None:
    """Arithmetic that touches no memory."""
    end = time.monotonic() + core_seconds
    while time.monotonic() < end:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", choices=SHAPES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=CONTENDERS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    params = [nn.Parameter(torch.randn(shape) * 0.02) for shape in SHAPES[arguments.shapes]()]
    for p in params:
        p.grad = torch.randn_like(p) * 0.01
    optimizers = {name: CONTENDERS[name](params) for name in arguments.only}
    neighbour = multiprocessing.Process(target=occupy, args=(3600,), daemon=True) if arguments.busy else None
    if neighbour is not None:
        neighbour.start()
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(arguments.rounds + 2):
        for name, optimizer in optimizers.items():
            begin = time.perf_counter()
            optimizer.step()
            if turn >= 2:
                times[name].append((time.perf_counter() - begin) * 1e3)
    if neighbour is not None:
        neighbour.terminate()
    medians = {name: statistics.median(several) for name, several in times.items()}
    result = {
        "shapes": arguments.shapes, "parameters": sum(p.numel() for p in params), "threads": arguments.threads,
        "busy": arguments.busy, "cores": os.cpu_count(), "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__, "kernels": unavailable() or "compiled", "against": arguments.only[0],
        "load": os.getloadavg()[0],
        "ms": {name: {"median": round(medians[name], 3), "least": round(min(times[name]), 3)} for name in times},
        "ratio": {name: round(medians[name] / medians[arguments.only[0]], 3) for name in times},
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
