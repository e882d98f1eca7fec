"""Gradients summed over ranks, bucket by bucket, while the last backward pass of a step is still under way."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anybatch.engine.ranks import Ranks

_BUCKET_BYTES = 25 << 20


@dataclass
class _Bucket:
    """Parameters of one dtype, summed in one all-reduce; `missing` are those whose gradient is not yet complete."""

    params: list[nn.Parameter]
    missing: set[nn.Parameter] = field(default_factory=set)
    flat: Tensor | None = None
    work: dist.Work | None = None


class GradientSum:
    """Sums what every rank has in `p.grad`, for the same parameters on every rank.

    Buckets are summed in a fixed order, each as soon as it and those before it are complete, so that ranks agree on the
    order whatever their graphs look like. Next to its gradients a bucket carries a one for each parameter that has one:
    a parameter that no rank has used keeps `p.grad` None, one that some rank has used gets the sum everywhere.

    Args:
        dtype: what is sent and summed; None: each gradient's own.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        ranks: Ranks,
        dtype: torch.dtype | None = None,
        bucket_bytes: int = _BUCKET_BYTES,
    ) -> None:
        self._ranks, self._dtype = ranks, dtype
        self._buckets = _cut([p for p in params if p.requires_grad], bucket_bytes)
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.params}
        self._next: int | None = None
        for p in self._bucket_of:
            p.register_post_accumulate_grad_hook(self._complete)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """The next backward pass is the last one before `finish`."""
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = set(bucket.params)

    def finish(self) -> None:
        """Starts what is left, waits for all buckets, and puts the sums in place."""
        assert self._next is not None, "begin() comes first"
        with self._ranks.waiting("summing gradients"):
            while self._next < len(self._buckets):
                self._start_next()
            for bucket in self._buckets:
                assert bucket.work is not None
                bucket.work.wait()
        self._next = None
        used = torch.cat([_flags(bucket).double() for bucket in self._buckets]).tolist()
        for p, count in zip(self._bucket_of, used, strict=True):
            if count and p.grad is None:
                p.grad = torch.empty_like(p)
        for bucket in self._buckets:
            assert bucket.flat is not None
            sizes = [p.numel() for p in bucket.params]
            for p, summed in zip(bucket.params, torch.split(bucket.flat[: sum(sizes)], sizes), strict=True):
                if p.grad is not None:
                    p.grad.copy_(summed.view_as(p))
            bucket.flat = bucket.work = None

    def _complete(self, p: Tensor) -> None:
        if self._next is None:
            return
        assert isinstance(p, nn.Parameter)
        self._bucket_of[p].missing.discard(p)
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._start_next()

    def _start_next(self) -> None:
        assert self._next is not None
        bucket = self._buckets[self._next]
        dtype = self._dtype or bucket.params[0].dtype
        has_gradient = [p.grad is not None for p in bucket.params]
        flags = torch.tensor(has_gradient, dtype=dtype, device=bucket.params[0].device)
        parts = [torch.zeros(p.numel(), dtype=dtype, device=p.device) if p.grad is None else p.grad.flatten().to(dtype)
                 for p in bucket.params]  # fmt: skip
        bucket.flat = torch.cat([*parts, flags])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self._next += 1


def _flags(bucket: _Bucket) -> Tensor:
    assert bucket.flat is not None
    return bucket.flat[-len(bucket.params) :]


def _cut(params: list[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Parameters in the order in which a backward pass reaches them: from the last to the first."""
    buckets: list[_Bucket] = []
    room = 0
    for p in reversed(params):
        size = p.numel() * p.element_size()
        last = buckets[-1].params[0] if buckets else None
        if last is None or size > room or (p.dtype, p.device) != (last.dtype, last.device):
            buckets.append(_Bucket([]))
            room = max(bucket_bytes, size)
        buckets[-1].params.append(p)
        room -= size
    return buckets
