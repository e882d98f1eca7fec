"""Kernel launches and host synchronizations of one BERT-large step, counted without a GPU by tensors without content.

    python benchmarks/gpu/counts.py --out FILE [--label NAME] [--layers 24] [--micro-batches 2]

needs PyTorch's CUDA build. What is not a view and touches a CUDA tensor counts as one launch; a foreach call as one for
every 110 tensors, which is what a launch takes. A number that is read from a CUDA tensor is a synchronization, told by
the line that reads it. FILE maps each label to its counts, so that revisions stand side by side.
"""

import argparse
import gc
import json
import os
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from transformers import masking_utils

TENSORS_A_LAUNCH = 110
SEQUENCE, MICRO_BATCH = 128, 64
_ALLOCATING = ("empty", "new_empty", "_unsafe_view", "lift_fresh", "detach", "alias", "record_stream", "set_", "prim::")


class Counting(TorchDispatchMode):
    """Counts what would run on the GPU; computes on CPU tensors, and lets those of the GPU be fake."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.launches = Counter[str]()
        self.syncs = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not fakes and not to_gpu:
            with _disable_current_modes():
                return func(*args, **kwargs)
        name = func.name().removeprefix("aten::")
        if name.startswith("_local_scalar_dense"):
            self._sync()
            return True if fakes[0].dtype == torch.bool else 1
        leaves_gpu = name.startswith("_to_copy") and target is not None and not to_gpu
        if leaves_gpu or name.startswith(("nonzero", "masked_select", "equal")):
            self._sync()
        if leaves_gpu:
            with _disable_current_modes():
                return torch.ones(fakes[0].shape, dtype=kwargs.get("dtype") or fakes[0].dtype)
        args, kwargs = tree_map(self._faked, (args, kwargs))
        if not func.is_view and not name.startswith(_ALLOCATING):
            many = max((len(leaf) for leaf in args if isinstance(leaf, list | tuple)), default=1)
            self.launches[name] += -(-many // TENSORS_A_LAUNCH) if name.startswith("_foreach") else 1
        with self.fake:
            return func(*args, **kwargs)

    def _faked(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor):
            return self.fake.from_tensor(leaf)
        return leaf

    def _sync(self) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        where = next(frame for frame in reversed(frames) if frame.filename != __file__)
        self.syncs["/".join(Path(where.filename).parts[-2:]) + f":{where.name}"] += 1


def count(layers: int, micro_batches: int, fused: bool) -> dict[str, Any]:
    """The counts of a step of so many micro-batches, and of one with one more."""
    from anybatch.engine import Execution, Ranks
    from anybatch.engine.loading import MicroBatch, Share
    from anybatch.engine.parallel import Parallel
    from anybatch.engine.step import train_step
    from anybatch.models.bert import BertSettings, pretraining_model
    from anybatch.optim import LAMB, param_groups

    fake = FakeTensorMode()
    Tensor.backward = _backward  # type: ignore[method-assign, assignment]
    # Nothing moves and nobody asks for a driver.
    nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    Tensor.pin_memory = lambda self, *args: self  # type: ignore[method-assign, assignment]
    torch.cuda.set_device = torch.cuda._lazy_init = lambda *_: None  # type: ignore[assignment, attr-defined]
    torch.cuda.is_bf16_supported = lambda *_, **__: True  # type: ignore[assignment]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    nn.functional.scaled_dot_product_attention = _attention
    # transformers asks no value of a tensor that it takes for a trace's.
    masking_utils.is_tracing = lambda *_: False
    ranks = Ranks()
    ranks.device = torch.device("cuda", 0)
    settings = BertSettings(
        vocabulary_size=30_522, hidden_size=1_024, num_layers=layers, num_heads=16, max_positions=512, dropout=0.1
    )
    with fake, torch.device("cuda", 0):
        model = pretraining_model(settings, seed=0).train()
    optimizer: Any = LAMB(param_groups(model), lr=1e-3)
    if fused:
        optimizer = _Passing(optimizer)
    execution = Execution(
        micro_batch_size=MICRO_BATCH,
        num_evals=1,
        num_trust_ratios=1,
        checkpoint_every_steps=1,
        precision="bf16",
        **_plain(),
    )
    parallel = Parallel(model, ranks, execution)
    found = []
    for number in (micro_batches, micro_batches, micro_batches + 1):
        share = Share([MicroBatch(_inputs(), 1.0, MICRO_BATCH)] * number, {"mlm": 1_000, "nsp": 64}, 7)
        with Counting(fake) as counted:
            train_step(parallel, optimizer, share, 1.0)
        found.append(counted)
    _, step, longer = found
    return {
        "launches_a_step": sum(step.launches.values()),
        "launches_a_micro_batch": sum(longer.launches.values()) - sum(step.launches.values()),
        "syncs_a_step": sum(step.syncs.values()),
        "syncs_a_micro_batch": sum(longer.syncs.values()) - sum(step.syncs.values()),
        "syncs": dict(step.syncs.most_common()),
        "most": dict(step.launches.most_common(12)),
        "micro_batches": micro_batches,
        "layers": layers,
        "parameters": len(list(model.parameters())),
        "optimizer": "fused: its own launches are not counted" if fused else "LAMB foreach",
        "torch": torch.__version__,
    }


@torch.no_grad()
def _backward(loss: Tensor) -> None:
    """What autograd's engine does, which asks for a driver before it calls the first node."""
    waiting = Counter[Any]()
    found, seen = [loss.grad_fn], {loss.grad_fn}
    while found:
        for node, _ in found.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    found.append(node)
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        taken = gradients.pop(node, {})
        if node.name() == "torch::autograd::AccumulateGrad":
            # The engine itself hands a first gradient on; to a node called from here it would be a copy.
            p, given = node.variable, taken[0]
            p.grad = given if p.grad is None else p.grad.add_(given)
            continue
        made: Any = node(*[taken.get(i) for i in range(max(taken, default=0) + 1)]) if taken else ()
        made = made if isinstance(made, tuple) else (made,)
        for place, (after, number) in enumerate(node.next_functions):
            if after is None:
                continue
            if place < len(made) and made[place] is not None:
                sums = gradients.setdefault(after, {})
                wanted = after._input_metadata[number]
                given = made[place].sum_to_size(wanted.shape) if made[place].shape != wanted.shape else made[place]
                given = given.to(wanted.dtype)
                sums[number] = given if number not in sums else sums[number] + given
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               scale: float | None = None, **_: Any) -> Tensor:  # fmt: skip
    """What a GPU does with a mask: a bias, and one kernel. Without a driver PyTorch would choose the unfused one."""
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf)
        bias = bias.expand(*q.shape[:-1], k.shape[-2])
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(q, k, v, bias, True, dropout_p, scale=scale)[0]  # type: ignore[no-any-return]


class _Passing:
    """An optimizer whose step costs no launch that is counted: a fused one's are known."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self) -> None:
        pass


def _plain() -> dict[str, Any]:
    """Nothing that asks a GPU; older revisions lack some of it."""
    from anybatch.engine import Execution

    return {
        name: False for name in ("compile", "channels_last", "cudnn_search") if name in Execution.__dataclass_fields__
    }


def _inputs() -> dict[str, Tensor]:
    mask = torch.ones(MICRO_BATCH, SEQUENCE, dtype=torch.int64)
    mask[0, 100:] = 0
    masked = torch.arange(MICRO_BATCH * 16)
    return {
        "input_ids": torch.ones_like(mask),
        "token_type_ids": torch.zeros_like(mask),
        "attention_mask": mask,
        "masked_positions": masked,
        "masked_labels": torch.ones_like(masked),
        "next_sentence_label": torch.zeros(MICRO_BATCH, dtype=torch.int64),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--label", default="now")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--fused", action="store_true", help="Leave the optimizer's own launches out.")
    given = parser.parse_args()
    # Python's collector crashes on what is left of a graph whose nodes were called from here.
    gc.disable()
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    known[given.label] = count(given.layers, given.micro_batches, given.fused)
    given.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known[given.label], indent=1), flush=True)
    # Neither may it run at exit.
    os._exit(0)


if __name__ == "__main__":
    main()
