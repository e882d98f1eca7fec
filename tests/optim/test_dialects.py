"""Each dialect against what it is named after: run where it can be installed, transcribed where not."""

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from support import peers

from anybatch.optim import LAMB, LARS, dialect, param_groups

RATES = [0.1 * (1 - t / 10) for t in range(10)]
DECAYED = [(6, 4), (5,), (3, 2, 2), (2, 2), (4,)]
UNDECAYED = [(7,), (3, 3), ()]
SHAPES = [*DECAYED, *UNDECAYED]


@pytest.fixture(params=[1e-3, 100.0], ids=["small gradients", "large gradients"])
def scale(request: pytest.FixtureRequest) -> Any:
    """Global gradient norms well below 1, where nothing clips, and well above."""
    return request.param


@pytest.fixture
def layers(scale: Any) -> Any:
    """Ten steps; of the layers one has no weights at first, one no gradient at steps 1-4, and one none at all."""
    random = np.random.default_rng(3)
    xs = [random.normal(size=shape) for shape in SHAPES]
    xs[3][:] = 0
    gradients = [[scale * random.normal(size=shape) for shape in SHAPES] for _ in RATES]
    for t, step in enumerate(gradients):
        step[4][:] = 0
        if t < 4:
            step[2][:] = 0
    return xs, gradients


def groups(params: Any, weight_decay: float | None = None) -> Any:
    """As users of these libraries write them: what is decayed, and what has weight decay 0."""
    decayed = {} if weight_decay is None else {"weight_decay": weight_decay}
    return [{"params": params[: len(DECAYED)], **decayed}, {"params": params[len(DECAYED) :], "weight_decay": 0.0}]


def ours(
    name: str,
    cls: Any,
    layers: Any,
    *,
    foreach: Any = False,
    before_step: Any = lambda t, optimizer: None,
    **overrides: dict[str, Any],
) -> Any:
    xs, gradients = layers
    params = [torch.nn.Parameter(torch.tensor(x)) for x in xs]
    spoken = dialect(name, cls, **overrides)
    optimizer = cls(spoken.groups(groups(params)), lr=RATES[0], foreach=foreach, **spoken.keywords)
    run(optimizer, params, gradients, before_step)
    return [p.detach().numpy() for p in params]


def run(optimizer: Any, params: Any, gradients: Any, before_step: Any = lambda t, optimizer: None) -> None:
    for t, (step, rate) in enumerate(zip(gradients, RATES, strict=True)):
        before_step(t, optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for p, g in zip(params, step, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()


def timms(cls: Any, layers: Any, weight_decay: float, **settings: Any) -> Any:
    xs, gradients = layers
    params = [torch.nn.Parameter(torch.tensor(x)) for x in xs]
    run(cls(groups(params, weight_decay), lr=RATES[0], foreach=False, **settings), params, gradients)
    return [p.detach().numpy() for p in params]


def assert_same(a: Any, b: Any, tolerance: float = 1e-11) -> None:
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=f"layer {i}, shape {x.shape}")


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
class TestLAMB:
    def test_paper(self, layers: Any, foreach: Any) -> None:
        decays = [0.01] * len(DECAYED) + [0.0] * len(UNDECAYED)
        theirs = [
            oracle.lamb(x, gs, RATES, weight_decay=decay)
            for x, decay, *gs in zip(layers[0], decays, *layers[1], strict=True)
        ]
        assert_same(ours("paper", LAMB, layers, foreach=foreach), theirs)

    @pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-3}])
    def test_timm(self, layers: Any, settings: Any, foreach: Any) -> None:
        decay = settings.get("weight_decay", 0.01)
        others = {key: value for key, value in settings.items() if key != "weight_decay"}
        theirs = timms(peers.timm("lamb").Lamb, layers, decay, **others)
        assert_same(ours("timm", LAMB, layers, foreach=foreach, **settings), theirs)

    def test_timms_trust_clip_is_an_upper_bound_of_one(self, layers: Any, foreach: Any) -> None:
        theirs = timms(peers.timm("lamb").Lamb, layers, 0.01, trust_clip=True)
        found = ours("timm", LAMB, layers, foreach=foreach, trust_clip=(0.0, 1.0))
        assert_same(found, theirs)
        assert not np.allclose(found[1], ours("timm", LAMB, layers)[1], rtol=1e-3)

    @pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}])
    def test_optax(self, layers: Any, settings: Any, foreach: Any) -> None:
        def rule(optax: Any, rate: Any) -> Any:
            mask = [True] * len(DECAYED) + [False] * len(UNDECAYED)
            return optax.lamb(rate, mask=mask, **settings)

        assert_same(ours("optax", LAMB, layers, foreach=foreach, **settings), peers.optax_after(rule, *layers, RATES))

    @pytest.mark.parametrize("decay", [0.01, 0.0])
    def test_apex(self, layers: Any, decay: Any, foreach: Any) -> None:
        decays = [decay] * len(DECAYED) + [0.0] * len(UNDECAYED)
        theirs = peers.apex(*layers, RATES, decays)
        assert_same(ours("apex", LAMB, layers, foreach=foreach, weight_decay=decay), theirs)

    def test_nvidia_bert_whose_second_phase_zeroes_the_count(self, layers: Any, foreach: Any) -> None:
        def begin_phase_2(t: Any, optimizer: Any) -> None:
            if t == 6:
                for state in optimizer.state.values():
                    state["step"].zero_()

        decays = [0.01] * len(DECAYED) + [0.0] * len(UNDECAYED)
        theirs = peers.apex(*layers, RATES, decays, restart=6)
        found = ours("nvidia-bert", LAMB, layers, foreach=foreach, before_step=begin_phase_2)
        assert_same(found, theirs)
        assert not np.allclose(found[0], ours("nvidia-bert", LAMB, layers)[0], rtol=1e-3)

    def test_nvidia_bert_leaves_out_a_step_that_overflowed(self, layers: Any, foreach: Any) -> None:
        xs, gradients = layers
        bad = [g.copy() for g in gradients[3]]
        bad[1][2] = np.inf
        taken = [*gradients[:3], *gradients[4:]]
        theirs = peers.apex(xs, taken, [*RATES[:3], *RATES[4:]], [0.01] * len(DECAYED) + [0.0] * len(UNDECAYED))
        assert_same(ours("nvidia-bert", LAMB, (xs, [*gradients[:3], bad, *gradients[4:]]), foreach=foreach), theirs)

    def test_resnet_author(self, layers: Any, foreach: Any) -> None:
        is_batch_norm = [False] * len(DECAYED) + [True] * len(UNDECAYED)
        theirs = peers.resnet_author(*layers, RATES, is_batch_norm)
        assert_same(ours("resnet-author", LAMB, layers, foreach=foreach), theirs)


@pytest.mark.parametrize("foreach", [False, True], ids=["plain", "foreach"])
class TestLARS:
    def test_lamb_paper(self, layers: Any, foreach: Any) -> None:
        theirs = [
            oracle.lars(x, gs, RATES, weight_decay=decay)
            for x, decay, *gs in zip(layers[0], [0.1] * 5 + [0.0] * 3, *layers[1], strict=True)
        ]
        assert_same(ours("lamb-paper", LARS, layers, foreach=foreach, weight_decay=0.1), theirs)

    @pytest.mark.parametrize("settings", [{}, {"momentum": 0.5, "nesterov": True}])
    def test_lars_2017(self, layers: Any, settings: Any, foreach: Any) -> None:
        decays = [0.0005] * len(DECAYED) + [0.0] * len(UNDECAYED)
        theirs = peers.lars_2017(*layers, RATES, decays, **settings)
        assert_same(ours("lars-2017", LARS, layers, foreach=foreach, **settings), theirs)

    @pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"momentum": 0.5, "nesterov": True, "eps": 0.1}])
    def test_optax(self, layers: Any, settings: Any, foreach: Any) -> None:
        def rule(optax: Any, rate: Any) -> Any:
            mask = [True] * len(DECAYED) + [False] * len(UNDECAYED)
            return optax.lars(rate, weight_decay_mask=mask, **settings)

        assert_same(ours("optax", LARS, layers, foreach=foreach, **settings), peers.optax_after(rule, *layers, RATES))

    @pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"momentum": 0.9, "nesterov": True}])
    def test_timm(self, layers: Any, settings: Any, foreach: Any) -> None:
        others = {key: value for key, value in settings.items() if key != "weight_decay"}
        theirs = timms(peers.timm("lars").Lars, layers, settings.get("weight_decay", 0.0), **others)
        assert_same(ours("timm", LARS, layers, foreach=foreach, **settings), theirs)


def test_the_dialects_differ(layers: Any, scale: Any) -> None:
    """A dialect that were another one in disguise would be no preset; apex and timm are one on purpose."""
    once = {name: ours(name, LAMB, layers)[0] for name in ("paper", "apex", "timm", "optax", "resnet-author")}
    assert np.array_equal(once["apex"], once["timm"])
    distinct = [once[name] for name in ("paper", "apex", "optax", "resnet-author")]
    small = scale < 1
    for i, a in enumerate(distinct):
        for b in distinct[:i]:
            # Below the clipping norm, paper and apex are one on decayed layers.
            assert np.allclose(a, b, rtol=1e-9) == (small and a is distinct[1] and b is distinct[0])


def test_groups_say_what_is_adapted() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    given = param_groups(model, adapt_excluded=True)
    assert [group["adapt"] for group in dialect("timm", LAMB).groups(given)] == [True, False]
    assert [group["adapt"] for group in given] == [True, True]
    assert [group["adapt"] for group in dialect("optax", LAMB).groups(param_groups(model))] == [True, True]
    named = list(model.named_parameters())
    assert dialect("apex", LAMB).groups(named) == [{"params": named, "adapt": True}]
    assert dialect("apex", LAMB, weight_decay=0.0).groups(model.parameters())[0]["adapt"] is False
    assert LAMB(dialect("apex", LAMB).groups(iter(named))).param_groups[0]["param_names"] == [n for n, _ in named]


def test_overrides_stay_with_the_caller() -> None:
    assert dialect("timm", LAMB, weight_decay=0.3).keywords["weight_decay"] == 0.3
    assert dialect("timm", LAMB).keywords["weight_decay"] == 0.01
    dialect("timm", LAMB).keywords["eps"] = 1.0
    assert dialect("timm", LAMB).keywords["eps"] == 1e-6


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        (
            "TIMM",
            LAMB,
            "name='TIMM' is not a dialect of LAMB, which are 'paper', 'apex', 'timm', 'optax', 'nvidia-bert'",
        ),
        ("apex", LARS, "name='apex' is not a dialect of LARS, which are 'lamb-paper', 'lars-2017', 'optax', 'timm'"),
        ("timm", torch.optim.Adam, "Adam.* has no dialects; LAMB and LARS have"),
    ],
)
def test_unknown_dialects_are_named(name: str, cls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dialect(name, cls)
