"""How many examples a run needs at a batch."""

import pytest

from anybatch.planner.examples import Curve, Law


def test_examples_by_batch():
    law = Law(reference_examples=1000, reference_batch=32, critical_batch=320)
    assert law.at(32) == pytest.approx(1000)
    assert law.at(320) == pytest.approx(1000 * 2 / 1.1)
    curve = Curve(((10, 100.0), (20, 200.0), (40, 220.0)), "")
    assert [curve.at(batch) for batch in (5, 10, 15, 20, 30, 60)] == [100, 100, 150, 200, 210, 240]
