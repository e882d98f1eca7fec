"""The fused CPU step beside PyTorch's fused AdamW, in one process, interleaved: medians, bytes and ratios as JSON.

    python benchmarks/cpu_step.py bert-base --threads 2 [--busy] [--rounds 9]

--busy keeps one core occupied by another process meanwhile, which is where barriers show.
"""

import argparse
import json
import os
import platform
import statistics
import time

import torch
from torch import nn

from anybatch import LAMB, LARS
from anybatch.machine.bench import busy_processes
from anybatch.machine.shapes import SETS
from anybatch.optim.kernels.cpu import unavailable

SHAPES = {**SETS, "tiny": lambda: [(64, 16), (64,), (10, 64), (10,), (10,)]}
CONTENDERS = {
    "torch AdamW fused": lambda params: torch.optim.AdamW(params, lr=1e-4, weight_decay=0.01, fused=True),
    "LAMB fused": lambda params: LAMB(params, lr=1e-4, fused=True),
    "LAMB fused, clipped": lambda params: LAMB(params, lr=1e-4, fused=True, max_grad_norm=1.0),
    "LARS fused": lambda params: LARS(params, 1e-4, weight_decay=0.01, fused=True),
    "LAMB plain": lambda params: LAMB(params, lr=1e-4, fused=False),
}


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
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    with busy_processes(int(arguments.busy)):
        for turn in range(arguments.rounds + 2):
            for name, optimizer in optimizers.items():
                begin = time.perf_counter()
                optimizer.step()
                if turn >= 2:
                    times[name].append((time.perf_counter() - begin) * 1e3)
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
