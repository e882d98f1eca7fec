"""States that lie in memory otherwise than their parameters: they follow, and the step stays fused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

WAYS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


def steps(optimizer: Any, p: Any, count: Any) -> None:
    for i in range(count):
        p.grad = torch.linspace(-1, 1 + i, p.numel(), dtype=p.dtype).view(p.shape)
        optimizer.step()


def through_a_file(optimizer: Any) -> Any:
    """What safetensors makes of a state dict."""
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.update({name: value.contiguous() for name, value in state.items()})
    return saved


def moments(optimizer: Any, p: Any) -> Any:
    return [value for name, value in optimizer.state[p].items() if name != "step"]


@pytest.mark.parametrize("masters", [False, True], ids=["fp32", "bf16 masters"])
@pytest.mark.parametrize("fused", [True, None, False])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_contiguous_states_are_loaded_into_the_parameters_layout(
    native: Any, way: Any, fused: Any, masters: Any
) -> None:
    x = torch.linspace(-1, 2, 72).view(4, 3, 2, 3).to(torch.bfloat16 if masters else torch.float32)
    p, q = nn.Parameter(way(x)), nn.Parameter(way(x))
    first, second = (native.make([t], lr=0.1, fused=fused, master_weights=masters) for t in (p, q))
    steps(first, p, 2)
    q.data.copy_(p.data)
    second.load_state_dict(through_a_file(first))
    assert all(value.stride() == q.stride() for value in moments(second, q))
    steps(first, p, 2)
    steps(second, q, 2)
    assert torch.equal(p, q)


@pytest.mark.parametrize("fused", [True, None, False])
def test_states_follow_a_model_that_changes_its_memory_format(native: Any, fused: Any) -> None:
    x = torch.linspace(-1, 2, 72).view(4, 3, 2, 3)
    model, p = nn.ParameterList([nn.Parameter(x.clone())]), nn.Parameter(x.clone())
    moved, control = (native.make([t], lr=0.1, fused=fused) for t in (model[0], p))
    for _ in range(2):
        steps(moved, model[0], 2)
        steps(control, p, 2)
        model.to(memory_format=torch.channels_last)
    steps(moved, model[0], 2)
    steps(control, p, 2)
    assert model[0].is_contiguous(memory_format=torch.channels_last)
    assert all(value.stride() == model[0].stride() for value in moments(moved, model[0]))
    torch.testing.assert_close(model[0], p, rtol=1e-6, atol=1e-6)


def test_shards_keep_the_layout_of_their_memory(native: Any) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    x = torch.linspace(-1, 2, 72).view(4, 3, 2, 3)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))

        def sharded(t: Any) -> Any:
            return DTensor.from_local(t, mesh, [Shard(0)], run_check=False)

        p = nn.Parameter(sharded(x.to(memory_format=torch.channels_last)))
        optimizer = native.make([p], lr=0.1, fused=True)
        for _ in range(2):
            p.grad = sharded(torch.ones_like(x))
            optimizer.step()
            saved = copy.deepcopy(optimizer.state_dict())
            for name, value in saved["state"][0].items():
                if name != "step":
                    saved["state"][0][name] = sharded(value.to_local().contiguous())
            optimizer.load_state_dict(saved)
        layout = p.to_local().stride()
        assert layout != x.stride()
        assert all(value.to_local().stride() == layout for value in moments(optimizer, p))
    finally:
        dist.destroy_process_group()


def test_the_state_of_a_parameter_with_gaps_is_left_alone(native: Any) -> None:
    p = nn.Parameter(torch.ones(4, 6)[:, ::2])
    optimizer = native.make([p], lr=0.1)
    steps(optimizer, p, 1)
    before = moments(optimizer, p)
    steps(optimizer, p, 1)
    assert all(a is b for a, b in zip(before, moments(optimizer, p), strict=True))
