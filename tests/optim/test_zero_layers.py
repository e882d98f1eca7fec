"""What docs/optimizers.md says of layers that start at zero."""

import pytest
from zero_initialised import WAYS, final_loss


@pytest.mark.parametrize("seed", range(2))
def test_warm_up_keeps_a_zero_layer_small_and_a_plain_step_does_not(seed: int) -> None:
    plain, warm = (final_loss(WAYS["as it is"], steps, seed) for steps in (0, 50))
    free, floored = (final_loss(WAYS[way], 50, seed) for way in ("adapt=False for B", "phi=(1, inf) for B"))
    assert warm > 3 * plain
    assert max(free, floored) < plain
