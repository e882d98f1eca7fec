"""What `anybatch bench` says: what is counted, who takes part, what is left out and why; never how long it took."""

import json
from typing import Any

import pytest
import torch

from anybatch.errors import InputError
from anybatch.machine import bench, contenders, measured, problem, shapes, traffic
from anybatch.machine.bench import Conditions
from anybatch.machine.problem import Unavailable
from anybatch.optim import LAMB

TINY = [(30, 8), (17,), (), (4, 3, 3)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SETS, "tiny", lambda: TINY)
    monkeypatch.setattr(bench, "_SAMPLE_S", 1e-4)


def test_bytes_are_counted_operation_by_operation() -> None:
    a, b = torch.ones(100), torch.ones(100)
    for operation, expected in [
        (lambda: a + b, 3),
        (lambda: a.add_(b), 3),
        (lambda: a.view(10, 10), 0),
        (lambda: torch.empty_like(a).copy_(b), 2),
        (lambda: torch.zeros_like(a), 1),
        (lambda: torch._foreach_mul_([a, b], 2.0), 4),
        (lambda: a.zero_(), 1),
        (lambda: torch.ones(()).expand(1000) * 2.0, 10),
    ]:
        with traffic.CountBytes() as counted:
            operation()
        assert abs(counted.bytes / 400 - expected) < 0.05, operation


@pytest.mark.parametrize("algorithm", ["lamb", "lars"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_every_contender_takes_part_or_says_why(tiny: Any, algorithm: Any, clip: Any) -> None:
    found = bench.measure(Conditions(algorithm=algorithm, sets=("tiny",), repeats=7, clip=clip, threads=1))
    (only,) = found["sets"]
    assert (only["tensors"], only["parameters"]) == (4, 294)
    assert [row["name"] for row in only["rows"]] == [row.name for row in contenders.contenders(algorithm, False)]
    for row in only["rows"]:
        if "why_not" in row:
            assert row["role"] == "peer" or "fused" in row["name"] or row["role"] == "pattern", row
            continue
        assert len(row["samples_s"]) == 7
        assert min(row["samples_s"]) <= row["median_s"] <= max(row["samples_s"])
        assert row["against_reference"] > 0
    times = {row["name"]: row for row in only["rows"] if "median_s" in row}
    assert {row["role"] for row in times.values()} >= {"ours", "reference"}
    if algorithm == "lamb" and clip is None:
        # Beyond the tensors themselves there are only scalars and norms: the count must be near whole passes.
        assert times["anybatch LAMB foreach"]["bytes_per_parameter"] == pytest.approx(112, abs=8)
    assert json.loads(json.dumps(found)) == found
    assert all(len(cells) == len(measured.COLUMNS) for cells in measured.rows(only))
    assert any(measured.findings(only))


def test_states_are_shared_so_that_all_contenders_fit(tiny: Any) -> None:
    shared = problem.Problem(TINY, torch.device("cpu"))
    step = contenders._sharing(LAMB(shared.params, foreach=False), shared)
    assert all(not m.any() for m in shared.first)
    step()
    assert all(m.any() for m in shared.first)
    assert all(v.any() for v in shared.second)


def test_a_pattern_moves_memory_and_changes_nothing() -> None:
    shared = problem.Problem([(70_000,), (5,)], torch.device("cpu"))
    before = [p.detach().clone() for p in shared.params]
    try:
        step = traffic.pattern(shared.gradients, [[p.detach() for p in shared.params], shared.first, shared.second])
    except Unavailable:
        pytest.skip("there is no C compiler")
    step()
    assert all(torch.equal(p, x) for p, x in zip(shared.params, before, strict=True))
    assert not any(m.any() for m in (*shared.first, *shared.second))


def test_what_does_not_fit_is_left_out_with_the_reason(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "free_bytes", lambda device: 1_000)
    (only,) = bench.measure(Conditions(sets=("tiny",)))["sets"]
    assert only["why_not"] == "needs about 0.0 GB of memory, 0.0 GB are free"
    assert list(measured.findings(only)) == ["not measured: needs about 0.0 GB of memory, 0.0 GB are free"]


def test_no_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-anywhere")
    with pytest.raises(Unavailable, match="the C compiler does not run"):
        traffic._compiled()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithm": "adam"}, "algorithm 'adam': must be lamb or lars"),
        ({"sets": ("bert",)}, "no set of shapes is called 'bert'; there are bert-large, bert-base, resnet-50"),
        ({"threads": 0}, "threads 0: must be at least 1"),
        ({"busy": -1}, "busy -1: must be at least 0"),
        ({"repeats": 6}, "repeats 6: must be at least 7"),
        ({"clip": 0.0}, "clip 0.0: must be above 0"),
        ({"device": "tpu"}, "device 'tpu': must be cpu or cuda"),
    ],
)
def test_wrong_conditions_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Conditions(**wrong)


def test_a_measurement_leaves_the_number_of_threads_alone(tiny: Any) -> None:
    before = torch.get_num_threads()
    bench.measure(Conditions(sets=("tiny",), threads=before + 1))
    assert torch.get_num_threads() == before
