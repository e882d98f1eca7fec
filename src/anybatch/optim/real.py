"""Tensors without numbers: on the meta device, or under PyTorch's FakeTensorMode."""

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_numbers(t: Tensor) -> bool:
    """Returns whether the host can read the numbers in `t`."""
    return not (t.is_meta or isinstance(t, FakeTensor))
