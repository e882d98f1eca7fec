"""One of four ranks, which step one model in many layouts; run by test_sharded.py as: sharded_ranks.py RANK FOLDER.

Every layout is fed the same gradients as the single process of the test, whole or as the rank's share of them.
"""

import copy
import math
import os
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn

from anybatch.optim import LAMB, LARS, Layerwise
from anybatch.optim.kernels.cpu import unavailable

STEPS = 20
WORLD = 4
RATES = [0.05 * (1 - t / STEPS) for t in range(STEPS)]


class Model(nn.Module):
    """Rows that 3 and 4 ranks do not divide, fewer rows than ranks, layers in blocks, and a 0-d-like scale."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(8, 18, dtype=dtype)
        self.up = nn.Linear(8, 12, dtype=dtype)
        self.down = nn.Linear(12, 8, dtype=dtype)
        self.few = nn.Linear(6, 2, bias=False, dtype=dtype)
        self.norm = nn.LayerNorm(7, dtype=dtype)


class Even(nn.Module):
    """Columns that four ranks divide."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(8, 18, bias=False, dtype=dtype)
        self.down = nn.Linear(12, 7, bias=False, dtype=dtype)


def groups(model, **adapted):
    named = dict(model.named_parameters())
    blocks = [name for name in named if name.startswith("qkv")]
    plain = [name for name in named if name.startswith("norm")]
    rest = [name for name in named if name not in blocks + plain]
    chosen = [
        {"params": [(name, named[name]) for name in blocks], "blocks": 3, **adapted},
        {"params": [(name, named[name]) for name in rest]},
        {"params": [(name, named[name]) for name in plain], "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in chosen if group["params"]]


KERNELS = unavailable() is None
DTYPES = {"lamb": (torch.float64, torch.float32), "lamb-fused": (torch.float32,), "lars-fused": (torch.float32,)}
OPTIMIZERS = {
    "lamb": lambda model: LAMB(groups(model), weight_decay=0.1),
    "lamb-foreach-l1": lambda model: LAMB(groups(model, norm="l1"), nesterov="mv", foreach=True),
    "lamb-linf-gated": lambda model: LAMB(groups(model), norm="linf", max_grad_norm=0.7, nonfinite="skip"),
    "lars": lambda model: LARS(groups(model), 0.1, form="lars-2017", weight_decay=0.1, max_grad_norm=0.7),
    "lamb-fused": lambda model: LAMB(groups(model), weight_decay=0.1, fused=KERNELS),
    "lars-fused": lambda model: LARS(groups(model), 0.1, form="lr-outside", max_grad_norm=0.7, fused=KERNELS),
    "layerwise": lambda model: Layerwise(torch.optim.AdamW(groups(model), weight_decay=0.1)),
}


def narrow(model):
    return LAMB(groups(model), master_weights=True, max_grad_norm=0.7)


def gradient(name, shape, step, dtype, nan_step=None):
    random = torch.Generator().manual_seed(hash_of(name) + 1000 * step)
    g = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    if step == nan_step and name == "qkv.weight":
        g[13, 2] = math.nan
    return g


def hash_of(name):
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(name))


def share(full, p):
    """The rank's share of a gradient in the parameter's own layout (without `distribute_tensor`'s broadcasts)."""
    from torch.distributed.tensor import DTensor

    if not isinstance(p, DTensor):
        return full
    piece = full
    for i, placement in enumerate(p.placements):
        if not placement.is_replicate():
            pieces, _ = placement._split_tensor(piece, p.device_mesh.size(i), with_padding=False)
            piece = pieces[p.device_mesh.get_local_rank(i)]
    return DTensor.from_local(piece.contiguous(), p.device_mesh, p.placements, shape=p.shape, stride=p.stride())


def train(model, optimizer, steps=range(STEPS), nan_step=None, watch=None):
    for step in steps:
        for name, p in model.named_parameters():
            p.grad = share(gradient(name, p.shape, step, p.dtype, nan_step), p)
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        with (watch and step == STEPS - 1 and watch) or nullcontext():
            optimizer.step()
    return optimizer


def full(t):
    from torch.distributed.tensor import DTensor

    return t.full_tensor() if isinstance(t, DTensor) else t


def whole(model):
    return {name: full(p) for name, p in model.state_dict(keep_vars=True).items()}


def layouts():
    """name -> (ranks, model class, how to shard a model)."""
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    four, three = DeviceMesh("cpu", [0, 1, 2, 3]), DeviceMesh("cpu", [0, 1, 2])
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))

    def replicate(model):
        distribute_module(model, four)
        assert all(p.placements == (Replicate(),) for p in model.parameters())

    def tensor_parallel(model):
        plan = {"qkv": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, square["inner"], plan)
        for layer in (model.qkv, model.up):
            fully_shard(layer, mesh=square["outer"])
        fully_shard(model, mesh=square["outer"])

    def mixed(model):
        """Along each mesh dimension something is cut and something is whole."""
        for name, placements in [
            ("qkv", (Shard(0), Shard(0))), ("up", (Shard(0), Replicate())), ("down", (Replicate(), Shard(0))),
            ("norm", (Replicate(), Replicate())), ("few", (Replicate(), Shard(1))),
        ]:  # fmt: skip
            module = getattr(model, name)
            for leaf, p in list(module.named_parameters()):
                setattr(module, leaf, nn.Parameter(distribute_tensor(p.data, square, placements)))

    def columns(model):
        fully_shard(model, mesh=four, shard_placement_fn=lambda p: Shard(1))

    return {
        "whole": (4, Model, lambda model: None),
        "fsdp-4": (4, Model, lambda model: fully_shard(model, mesh=four)),
        "fsdp-3": (3, Model, lambda model: fully_shard(model, mesh=three)),
        "replicate": (4, Model, replicate),
        "hsdp": (4, Model, lambda model: fully_shard(model, mesh=square)),
        "tp-fsdp": (4, Model, tensor_parallel),
        "mixed": (4, Model, mixed),
        "columns": (4, Even, columns),
    }


def step_everywhere(rank):
    """Every optimizer in every layout."""
    from torch.distributed.tensor.debug import CommDebugMode

    results = {}
    for layout, (ranks, kind, shard) in layouts().items():
        for name, make in OPTIMIZERS.items():
            for dtype in DTYPES.get(name, (torch.float64,)):
                if rank >= ranks:
                    continue
                model = kind(dtype)
                shard(model)
                watch = CommDebugMode()
                optimizer, named = make(model), []
                if "gated" in name:
                    train(model, optimizer, range(8), nan_step=7)
                    named = optimizer.nonfinite_layers
                train(model, optimizer, range(8 if named else 0, STEPS), watch=watch)
                results[layout, name, dtype] = {
                    "params": whole(model),
                    "ratios": optimizer.trust_ratios(),
                    "skipped": getattr(optimizer, "skipped_steps", 0),
                    "named": named,
                    "collectives": watch.get_total_counts(),
                }
        dist.barrier()
    return results


def move_states(folder):
    """Ten steps in one layout, the rest in another, by way of a full state dict and by way of files."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    results, half = {}, STEPS // 2
    known = layouts()

    def new_pair(layout):
        model = Model(torch.bfloat16)
        known[layout][2](model)
        return model, narrow(model)

    for old in ("whole", "fsdp-4", "hsdp", "tp-fsdp"):
        model, optimizer = new_pair(old)
        train(model, optimizer, range(half))
        path = f"{folder}/{old}"
        of_model, of_optimizer = get_state_dict(model, optimizer)
        dcp.save({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=path)
        everything = StateDictOptions(full_state_dict=True)
        entire = get_state_dict(model, optimizer, options=everything)
        for new in ("whole", "fsdp-4", "tp-fsdp"):
            # PyTorch cannot scatter a full tensor over two mesh dimensions that cut the same rows unevenly.
            for by in ("full", "files") if new != "tp-fsdp" else ("files",):
                model, optimizer = new_pair(new)
                if by == "full":
                    # Loaded tensors are shared with the state dict, as PyTorch's own optimizers do.
                    of_model, of_optimizer = copy.deepcopy(entire)
                    set_state_dict(
                        model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer, options=everything
                    )
                else:
                    of_model, of_optimizer = get_state_dict(model, optimizer)
                    state = {"model": of_model, "optimizer": of_optimizer}
                    dcp.load(state, checkpoint_id=path)
                    set_state_dict(
                        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
                    )
                train(model, optimizer, range(half, STEPS))
                states = {name: optimizer.state[p] for name, p in model.named_parameters()}
                masters = {name: full(state["master"]) for name, state in states.items()}
                results[old, new, by] = masters, {float(state["step"]) for state in states.values()}
    return results


def refusals():
    """What must be refused, and in which words."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor, Partial

    def words(call):
        try:
            call()
        except (TypeError, ValueError) as error:
            return str(error)
        return "nothing was refused"

    mesh = DeviceMesh("cpu", [0, 1, 2, 3])
    flattened = FullyShardedDataParallel(Model(), device_id=torch.device("cpu"))
    partial = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    model = Model()
    layouts()["fsdp-4"][2](model)
    optimizer = train(model, LAMB(groups(model)), range(1))
    foreign = train(other := Model(), LAMB(groups(other)), range(1)).state_dict()
    before = [full(optimizer.state[p]["exp_avg"]) for p in model.parameters()]
    results = {
        "fsdp1": words(lambda: LAMB(flattened.parameters())),
        "partial": words(lambda: LAMB([partial])),
        "foreign state": words(lambda: optimizer.load_state_dict(foreign)),
    }
    assert all(
        torch.equal(full(optimizer.state[p]["exp_avg"]), m) for p, m in zip(model.parameters(), before, strict=True)
    )
    return results


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    results = {**step_everywhere(rank), **move_states(folder), **refusals()}
    torch.save(results, f"{folder}/steps-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # gloo's threads may outlive the group, and abort an interpreter that is being taken down
