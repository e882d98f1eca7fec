"""How far other implementations of LAMB end from the paper's Algorithm 2, fed the same gradients.

    pip install --no-deps timm pytorch_optimizer torch_optimizer pytorch_ranger && pip install optax
    python benchmarks/other_lambs.py [--steps 100]

Two layers with weight decay 0.01 (one of norm 1.3, one of norm 26), two without (ones, and small numbers), lr 0.01
falling linearly, gradients with a constant part and a global norm that falls from 5 to 0.5. The paper is
tests/oracle.py in float64. Deviation: |moved - paper moved| / |paper moved|, over the layers named together, and the
same of anybatch with the keywords of docs/optimizers.md from what it replaces. What is not installed is left out. apex
and DeepSpeed need a GPU: their kernels' formulas are transcribed. Writes benchmarks/results/other-lambs.json.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anybatch.environment import describe_environment
from anybatch.files import write_json
from anybatch.optim import LAMB, dialect

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import oracle
from support import peers

RESULTS = Path(__file__).parent / "results" / "other-lambs.json"
DECAYS = (0.01, 0.01, 0.0, 0.0)
Arrays = list[np.ndarray]
Run = Callable[[Arrays, list[Arrays], list[float]], Arrays]


@dataclass(frozen=True)
class Row:
    """`replacement` is anybatch with keywords that should do the same; None where there are none."""

    package: str
    name: str
    settings: str
    run: Run
    replacement: Run | None = None


def problem(steps: int) -> tuple[Arrays, list[Arrays], list[float]]:
    """Layers, gradients and rates."""
    random = np.random.default_rng(0)
    xs = [random.normal(0, 0.02, (64, 64)), random.normal(0, 0.1, (256, 256)), np.ones(64), random.normal(0, 0.02, 64)]
    directions = [random.normal(size=x.shape) for x in xs]
    gradients = []
    for t in range(steps):
        step = [d + 2 * random.normal(size=d.shape) for d in directions]
        norm = np.sqrt(sum((g * g).sum() for g in step))
        gradients.append([g * 5 * 0.1 ** (t / max(1, steps - 1)) / norm for g in step])
    return xs, gradients, [0.01 * (1 - t / steps) for t in range(steps)]


def deepspeed(
    xs: Arrays, gradients: list[Arrays], rates: list[float], *, bias_correction: bool = True, eps: float = 1e-8
) -> Arrays:
    """FusedLamb's kernel with its default bounds of the ratio; eps is outside of the root."""
    state = [(x, 0 * x, 0 * x) for x in xs]
    for t, (step, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        step_size = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) if bias_correction else lr
        following = []
        for (x, m, v), g, decay in zip(state, step, DECAYS, strict=True):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            update = m / (np.sqrt(v) + eps) + decay * x
            w_norm, u_norm = np.linalg.norm(x.ravel()), np.linalg.norm(update.ravel())
            coefficient = min(max(w_norm / u_norm, 0.01), 10.0) if w_norm and u_norm else 1.0
            following.append((x - step_size * coefficient * update, m, v))
        state = following
    return [x for x, _, _ in state]


def of_torch(make: Callable[..., torch.optim.Optimizer]) -> Run:
    """`make(groups, lr)` is run with a group of weight decay 0.01 and one of 0."""

    def run(xs: Arrays, gradients: list[Arrays], rates: list[float]) -> Arrays:
        params = [torch.nn.Parameter(torch.tensor(x)) for x in xs]
        optimizer = make(
            [{"params": params[:2], "weight_decay": 0.01}, {"params": params[2:], "weight_decay": 0.0}], 0.1
        )
        for step, rate in zip(gradients, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for p, g in zip(params, step, strict=True):
                p.grad = torch.tensor(g)
            optimizer.step()
        return [p.detach().numpy() for p in params]

    return run


def of_optax(xs: Arrays, gradients: list[Arrays], rates: list[float]) -> Arrays:
    mask = [decay != 0 for decay in DECAYS]
    return peers.optax_after(lambda optax, lr: optax.lamb(lr, weight_decay=0.01, mask=mask), xs, gradients, rates)


def apex(xs: Arrays, gradients: list[Arrays], rates: list[float]) -> Arrays:
    return peers.apex(xs, gradients, rates, DECAYS)


def ours(factor: Callable[[int], float] = lambda t: 1.0, **keywords: Any) -> Run:
    """LAMB with these keywords, and its rate times factor(t) at step t = 1, 2, ..."""
    run = of_torch(lambda groups, lr: LAMB(groups, lr, **keywords))
    return lambda xs, gradients, rates: run(xs, gradients, [factor(t) * lr for t, lr in enumerate(rates, start=1)])


def spoken(name: str) -> Run:
    chosen = dialect(name, LAMB)
    return of_torch(lambda groups, lr: LAMB(chosen.groups(groups), lr, **chosen.keywords))


def debias(t: int) -> float:
    """The bias correction of Adam as some bring it to the rate of LAMB, where normalisation no longer removes it."""
    return math.sqrt(1 - 0.999**t) / (1 - 0.9**t)


def implementations() -> list[Row]:
    """All that can be run here."""
    rows = [Row("anybatch", "LAMB", "", of_torch(lambda groups, lr: LAMB(groups, lr)))]
    if find_spec("optax"):
        rows.append(Row("optax", "lamb", "", of_optax, ours()))
    if find_spec("timm"):
        lamb = peers.timm("lamb").Lamb
        plain = {"max_grad_norm": None, "always_adapt": True}
        rows += [
            Row("timm", "Lamb", "", of_torch(lamb), spoken("timm")),
            Row(
                "timm",
                "Lamb",
                "max_grad_norm=None, always_adapt=True",
                of_torch(lambda groups, lr: lamb(groups, lr, **plain)),
                ours(),
            ),
        ]
    bounded = {"bias_correction": False, "eps": 1e-8, "trust_clip": (0.01, 10.0)}
    rows += [
        Row("apex", "FusedLAMB", "transcribed", apex, spoken("apex")),
        Row("deepspeed", "FusedLamb", "transcribed", deepspeed, ours(debias, **bounded)),
        Row(
            "deepspeed",
            "FusedLamb",
            "transcribed, bias_correction=False",
            lambda *run: deepspeed(*run, bias_correction=False),
            ours(**bounded),
        ),
    ]
    capped = {"bias_correction": False, "phi": (0.0, 10.0)}
    if find_spec("pytorch_optimizer"):
        from pytorch_optimizer import Lamb as PytorchOptimizerLamb

        rows += [
            Row("pytorch_optimizer", "Lamb", "", of_torch(PytorchOptimizerLamb)),
            Row(
                "pytorch_optimizer",
                "Lamb",
                "weight_decouple=False",
                of_torch(lambda groups, lr: PytorchOptimizerLamb(groups, lr, weight_decouple=False)),
                ours(lambda t: 1 / (1 - 0.9**t), **capped),
            ),
            Row(
                "pytorch_optimizer",
                "Lamb",
                "weight_decouple=False, adam_debias=True",
                of_torch(lambda groups, lr: PytorchOptimizerLamb(groups, lr, weight_decouple=False, adam_debias=True)),
                ours(**capped),
            ),
        ]
    if find_spec("torch_optimizer"):
        from torch_optimizer import Lamb as TorchOptimizerLamb

        rows += [
            Row("torch_optimizer", "Lamb", "", of_torch(TorchOptimizerLamb), ours(**capped)),
            Row(
                "torch_optimizer",
                "Lamb",
                "debias=True, clamp_value=1e9",
                of_torch(lambda groups, lr: TorchOptimizerLamb(groups, lr, debias=True, clamp_value=1e9)),
                ours(debias, bias_correction=False),
            ),
        ]
    return rows


def moved(found: Sequence[np.ndarray], xs: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([(a - x).ravel() for a, x in zip(found, xs, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    xs, gradients, rates = problem(steps)

    def paper(count: int) -> Arrays:
        return [
            oracle.lamb(x, gs[:count], rates[:count], weight_decay=decay)
            for x, decay, *gs in zip(xs, DECAYS, *gradients, strict=True)
        ]

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""

    def deviation(found: Arrays, reference: Arrays, part: slice) -> float:
        way = moved(reference[part], xs[part])
        return float(np.linalg.norm(moved(found[part], reference[part])) / np.linalg.norm(way))

    first, last = paper(1), paper(steps)
    decayed, others = slice(2), slice(2, 4)
    rows = []
    print(f"{'implementation':80} {'first step':>10} {'decayed':>9} {'others':>9} {'replaced':>9}    {steps} steps")
    for row in implementations():
        one, found = row.run(xs, gradients[:1], rates[:1]), row.run(xs, gradients, rates)
        replaced = row.replacement and deviation(row.replacement(xs, gradients, rates), found, slice(4))
        figures = {
            "first_step_length": float(
                np.linalg.norm(moved(one[decayed], xs[decayed])) / np.linalg.norm(moved(first[decayed], xs[decayed]))
            ),
            "deviation_decayed": deviation(found, last, decayed),
            "deviation_undecayed": deviation(found, last, others),
            "deviation_of_replacement": replaced,
        }
        about = {"package": row.package, "version": installed(row.package), "class": row.name, "settings": row.settings}
        rows.append({**about, **figures})
        title = f"{row.package} {about['version']} {row.name}({row.settings})"
        print(
            f"{title:80} {figures['first_step_length']:10.3f} {figures['deviation_decayed']:9.1e} "
            f"{figures['deviation_undecayed']:9.1e} {'' if replaced is None else f'{replaced:9.1e}'}"
        )
    environment = {**describe_environment(), "numpy": np.__version__}
    write_json(RESULTS, {"environment": environment, "steps": steps, "rows": rows})


if __name__ == "__main__":
    main()
