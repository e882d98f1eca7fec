"""Student's t against SciPy's."""

import pytest
from scipy import stats

from anybatch.scaling.student_t import t_cumulative, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert t_cumulative(1.3, freedom) == pytest.approx(stats.t.cdf(1.3, freedom), rel=1e-12)
