"""What a review found wrong, path by path."""

import math

import pytest
import torch

from anybatch.optim import LAMB, LARS, param_groups
from anybatch.optim.kernels import why_not_fused

P = torch.nn.Parameter
PATHS = [{"foreach": False}, {"foreach": True}, {}]
IDS = ["plain", "foreach", "default"]
needs_kernels = pytest.mark.skipif(
    why_not_fused(torch.device("cpu"), torch.float32, {"norm": "l2"}) is not None, reason="no C kernels here"
)


@pytest.mark.parametrize("path", PATHS, ids=IDS)
@pytest.mark.parametrize("form", ["lars-2017", "lr-outside"])
def test_a_layer_without_gradient_has_no_rate_of_its_own(form, path):
    p = P(torch.tensor([3.0, 4.0]))
    p.grad = torch.zeros(2)
    LARS([p], 0.1, weight_decay=0.5, trust_coefficient=0.001, form=form, **path).step()
    torch.testing.assert_close(p.data, torch.tensor([2.85, 3.8]))


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_an_infinite_bound_measures_and_clips_nothing(path):
    p, q = P(torch.ones(4)), P(torch.ones(4))
    p.grad = q.grad = torch.ones(4)
    optimizer = LAMB([p], 0.1, max_grad_norm=math.inf, **path)
    optimizer.step()
    LAMB([q], 0.1, **path).step()
    assert torch.equal(p, q)
    optimizer.max_grad_norm = 0.0
    with pytest.raises(ValueError, match=r"max_grad_norm=0\.0 is not above 0"):
        optimizer.step()


def test_an_empty_first_group_takes_part_in_the_look():
    p = P(torch.ones(4))
    optimizer = LAMB([{"params": []}, {"params": [p]}], lr=0.1, max_grad_norm=1.0)
    optimizer.step()
    p.grad = torch.ones(4)
    optimizer.step()
    assert p.norm() < 2


@pytest.mark.parametrize("path", PATHS, ids=IDS)
@pytest.mark.parametrize("bound", [None, 1.0])
def test_gradients_that_are_not_what_lies_in_memory(path, bound):
    """A zero tensor has no memory, and a lazy sign is not in it."""
    lazy, plain = P(torch.ones(8)), P(torch.ones(8))
    for p, grads in ((lazy, (torch._neg_view(torch.arange(1.0, 9.0)), torch._efficientzerotensor(8))),
                     (plain, (-torch.arange(1.0, 9.0), torch.zeros(8)))):  # fmt: skip
        optimizer = LAMB([p], 0.1, max_grad_norm=bound, **path)
        for p.grad in grads:
            optimizer.step()
    torch.testing.assert_close(lazy, plain)


def test_states_taken_away_in_mid_run_are_made_anew():
    p = P(torch.ones(4, dtype=torch.bfloat16))
    p.grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer = LAMB([p], lr=0.1, master_weights=True)
    for _ in range(2):
        optimizer.step()
    del optimizer.state[p]["master"]
    optimizer.step()
    assert "master" in optimizer.state[p]
    optimizer.state[p].clear()
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_groups_that_share_memory_step_as_the_plain_path_does():
    ends = []
    for path in ({"foreach": False}, {}):
        base = torch.linspace(-1, 1, 8)
        p, q = P(base[:5]), P(base[3:])
        p.grad = q.grad = torch.arange(5.0)
        optimizer = LARS([{"params": [p]}, {"params": [q]}], lr=0.5, weight_decay=0.5, **path)
        for _ in range(2):
            optimizer.step()
        ends.append(base)
    torch.testing.assert_close(*ends)


@needs_kernels
def test_a_norm_that_the_kernels_lack_is_refused_also_in_mid_run():
    p = P(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = LAMB([p], lr=0.1, fused=True)
    optimizer.step()
    optimizer.param_groups[0]["norm"] = "l1"
    before = p.clone()
    with pytest.raises(RuntimeError, match="norm='l2' alone, not 'l1'; no parameter and no state was changed"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("foreach", [False, True, None])
def test_a_fresh_optimizer_of_several_groups_compiles_to_one_graph(foreach):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))
    optimizer = LAMB(param_groups(model), lr=torch.tensor(0.1), foreach=foreach)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape)
        step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
