"""What the tests of the CPU kernels share."""

import pytest

from anybatch.optim.kernels.library import library


@pytest.fixture(autouse=True)
def _compiled(request: pytest.FixtureRequest) -> None:
    """Without a compiler there is nothing to test here but the plain path, which the other tests have."""
    found = library()
    if isinstance(found, str) and "without_kernels" not in request.keywords:
        pytest.skip(found)
