"""Gradients in flat buckets: added over micro-batches, and over ranks during the last backward pass."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anybatch.engine.ranks import Ranks

_BUCKET_BYTES = 25 << 20


@dataclass
class _Bucket:
    """Parameters of one dtype; their gradients are in `flat`, each in its parameter's shape as one of `views`.

    `sources` are the tensors whose gradients a backward pass makes: the parameters, or copies of them in lower
    precision. `used`: indices of parameters whose gradient of the step is in `flat`, which ends in a one for each.
    `missing`: sources that the last backward pass has not reached. `sent` is summed over ranks. `staged` are views of
    scratch memory, in which gradients of lower precision get the parameters' dtype before they are added.
    """

    params: list[nn.Parameter]
    sources: list[nn.Parameter]
    missing: set[nn.Parameter] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    flat: Tensor | None = None
    sent: Tensor | None = None
    views: list[Tensor] = field(default_factory=list)
    staged: list[Tensor] = field(default_factory=list)
    work: dist.Work | None = None

    @property
    def numel(self) -> int:
        return sum(p.numel() for p in self.params)

    @property
    def flags(self) -> Tensor:
        sent = self.sent if self.sent is not None else self.flat
        assert sent is not None
        return sent[-len(self.params) :]

    def views_of(self, memory: Tensor) -> list[Tensor]:
        parts = torch.split(memory[: self.numel], [p.numel() for p in self.params])
        return [_laid_out_like(p, part) for p, part in zip(self.params, parts, strict=True)]

    def gather(self, scratch: Tensor | None) -> None:
        """Adds the gradients of the last backward pass; copies in lower precision release theirs."""
        if self.flat is None:
            self.flat = self.params[0].new_zeros(self.numel + len(self.params))
            self.views = self.views_of(self.flat)
            self.staged = self.views_of(scratch) if scratch is not None else []
        found: dict[int, Tensor] = {}
        for i, (p, source) in enumerate(zip(self.params, self.sources, strict=True)):
            grad = p.grad if source.grad is None else source.grad
            if grad is not None and grad is not self.views[i]:
                found[i] = grad
            if source is not p:
                source.grad = None
        _copy(self.views, found, [i for i in found if i not in self.used])
        again = [i for i in found if i in self.used]
        if again and self.staged:
            _copy(self.staged, found, again)
        if again:
            added = [self.staged[i] if self.staged else found[i] for i in again]
            torch._foreach_add_([self.views[i] for i in again], added)
        self.used |= found.keys()

    def send(self, dtype: torch.dtype | None) -> None:
        """Starts the sum over ranks."""
        assert self.flat is not None
        self.flags.fill_(1)
        for i in self.unused:
            self.views[i].zero_()
            self.flags[i].zero_()
        self.sent = self.flat if dtype is None else self.flat.to(dtype)
        self.work = dist.all_reduce(self.sent, async_op=True)

    def settle(self) -> None:
        """Gives the parameters their gradients, which are now all in `flat`."""
        there = self.used
        if self.sent is not None:
            assert self.flat is not None
            # Only a rank without a gradient waits for the device, to learn whether another rank has it.
            if self.unused:
                there = {i for i, flag in enumerate(self.flags.tolist()) if flag}
            if self.sent is not self.flat:
                self.flat.copy_(self.sent)
        for i in there:
            self.params[i].grad = self.views[i]
        self.used, self.sent, self.work = set(), None, None

    @property
    def unused(self) -> list[int]:
        return [i for i in range(len(self.params)) if i not in self.used]


class GradientSum:
    """Sums the ranks' gradients in `p.grad`, for the same parameters on every rank.

    Buckets are summed in a fixed order, each as soon as it and the earlier ones are complete, so ranks agree on the
    order, whatever their graphs are. A bucket also carries a one for each parameter that has a gradient: if no rank
    has used a parameter, it keeps `p.grad` None; if some rank has, all ranks get the sum. After `finish` every
    `p.grad` is a view of its bucket, until it is set to None.

    Args:
        dtype: the dtype in which gradients are sent and summed; None: each gradient's.
        sources: in the order of `params`, the tensors whose gradients the backward passes make: copies in lower
            precision. After each pass `gather` adds them to the buckets.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        ranks: Ranks,
        dtype: torch.dtype | None = None,
        bucket_bytes: int = _BUCKET_BYTES,
        sources: Sequence[nn.Parameter] | None = None,
    ) -> None:
        params = list(params)
        pairs = [(p, source) for p, source in zip(params, sources or params, strict=True) if p.requires_grad]
        self._ranks, self._dtype, self._sums = ranks, dtype, dist.is_initialized()
        self._buckets = _cut(pairs, bucket_bytes)
        self._bucket_of = {source: bucket for bucket in self._buckets for source in bucket.sources}
        self._scratch: Tensor | None = None
        self._next: int | None = None
        if self._sums:
            for source in self._bucket_of:
                source.register_post_accumulate_grad_hook(self._complete)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Declares the next backward pass the last one before `finish`."""
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = set(bucket.sources)

    def gather(self) -> None:
        """Adds the gradients of `sources`; called after a backward pass."""
        for bucket in self._buckets[self._next or 0 :]:
            bucket.gather(self._scratch_for(bucket))

    def finish(self) -> None:
        """Starts the remaining sums, waits for all buckets, and puts the sums in place."""
        if self._next is None:
            self.begin()
        assert self._next is not None
        with self._ranks.waiting("summing gradients"):
            while self._next < len(self._buckets):
                self._start_next()
            for bucket in self._buckets:
                if bucket.work is not None:
                    bucket.work.wait()
        self._next = None
        for bucket in self._buckets:
            bucket.settle()

    def _complete(self, source: Tensor) -> None:
        if self._next is None:
            return
        assert isinstance(source, nn.Parameter)
        self._bucket_of[source].missing.discard(source)
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._start_next()

    def _start_next(self) -> None:
        assert self._next is not None
        bucket = self._buckets[self._next]
        bucket.gather(self._scratch_for(bucket))
        if self._sums:
            bucket.send(self._dtype)
        self._next += 1

    def _scratch_for(self, bucket: _Bucket) -> Tensor | None:
        """Returns memory that buckets of lower precision share: the device works on one after the other."""
        if bucket.sources[0].dtype == bucket.params[0].dtype:
            return None
        if self._scratch is None:
            lower = [each.numel for each in self._buckets if each.sources[0].dtype != each.params[0].dtype]
            self._scratch = bucket.params[0].new_empty(max(lower))
        return self._scratch


def _copy(views: list[Tensor], grads: dict[int, Tensor], chosen: list[int]) -> None:
    if chosen:
        torch._foreach_copy_([views[i] for i in chosen], [grads[i] for i in chosen])


def _laid_out_like(p: Tensor, part: Tensor) -> Tensor:
    """Returns `part` in the shape and memory format of `p`: weights of convolutions may have channels last."""
    if not p.is_contiguous() and p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last):
        return part.as_strided(p.shape, p.stride())
    return part.view(p.shape)


def _cut(pairs: list[tuple[nn.Parameter, nn.Parameter]], bucket_bytes: int) -> list[_Bucket]:
    """Makes buckets of parameters in the order of a backward pass, from the last to the first."""
    filled: dict[tuple[torch.dtype, torch.dtype, torch.device], tuple[_Bucket, int]] = {}
    complete: dict[int, int] = {}
    buckets: list[_Bucket] = []
    for position, (p, source) in enumerate(reversed(pairs)):
        size, kind = p.numel() * p.element_size(), (p.dtype, source.dtype, p.device)
        bucket, room = filled.get(kind, (None, 0))
        if bucket is None or size > room:
            bucket, room = _Bucket([], []), max(bucket_bytes, size)
            buckets.append(bucket)
        bucket.params.append(p)
        bucket.sources.append(source)
        filled[kind] = bucket, room - size
        complete[id(bucket)] = position
    return sorted(buckets, key=lambda bucket: complete[id(bucket)])
