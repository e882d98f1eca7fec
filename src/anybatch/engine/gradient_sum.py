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
    """Parameters of one dtype, summed in one all-reduce of `flat`; `missing`: whose gradient is not yet complete.

    `flat` holds their gradients, of which `views` has each in its parameter's shape, and a one for each that has one.
    """

    params: list[nn.Parameter]
    missing: set[nn.Parameter] = field(default_factory=set)
    unused: list[int] = field(default_factory=list)
    flat: Tensor | None = None
    views: list[Tensor] = field(default_factory=list)
    work: dist.Work | None = None

    def allocate(self, dtype: torch.dtype) -> None:
        """Makes `flat`, for good."""
        sizes = [p.numel() for p in self.params]
        self.flat = torch.zeros(sum(sizes) + len(sizes), dtype=dtype, device=self.params[0].device)
        parts = torch.split(self.flat[: sum(sizes)], sizes)
        self.views = [_laid_out_like(p, part) for p, part in zip(self.params, parts, strict=True)]

    @property
    def flags(self) -> Tensor:
        assert self.flat is not None
        return self.flat[-len(self.params) :]


class GradientSum:
    """Sums what every rank has in `p.grad`, for the same parameters on every rank.

    Buckets are summed in a fixed order, each as soon as it and those before it are complete, so that ranks agree on the
    order whatever their graphs look like. Next to its gradients a bucket carries a one for each parameter that has one:
    a parameter that no rank has used keeps `p.grad` None, one that some rank has used gets the sum everywhere. After
    `finish` every `p.grad` of the dtype that is sent is a view of its bucket, and stays so until it is set to None.

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
        for bucket in self._buckets:
            # Only who lacks a gradient waits for the device to learn whether another rank has it.
            used = bucket.flags.tolist() if bucket.unused else []
            kept = [i for i in range(len(bucket.params)) if i not in bucket.unused or used[i]]
            views = [bucket.views[i] for i in kept]
            for i, view in zip(kept, views, strict=True):
                p = bucket.params[i]
                if view.dtype == p.dtype:
                    p.grad = view
                elif p.grad is None:
                    p.grad = torch.empty_like(p)
            grads = [grad for i in kept if (grad := bucket.params[i].grad) is not None and grad is not bucket.views[i]]
            if grads:
                torch._foreach_copy_(grads, views)
            bucket.work = None

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
        if bucket.flat is None:
            bucket.allocate(self._dtype or bucket.params[0].dtype)
        bucket.unused = [i for i, p in enumerate(bucket.params) if p.grad is None]
        bucket.flags.fill_(1)
        for i in bucket.unused:
            bucket.views[i].zero_()
            bucket.flags[i].zero_()
        pairs = [(view, p.grad) for view, p in zip(bucket.views, bucket.params, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [grad for _, grad in pairs])
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self._next += 1


def _laid_out_like(p: Tensor, part: Tensor) -> Tensor:
    """`part` in the shape of `p`, and in its memory format: weights of convolutions may have channels last."""
    if not p.is_contiguous() and p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last):
        return part.as_strided(p.shape, p.stride())
    return part.view(p.shape)


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
