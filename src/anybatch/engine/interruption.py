"""Asked to stop: the first signal lets the step finish and the state be saved, a second Ctrl-C ends at once.

Other signals may come twice: a cluster's scheduler signals a process as well as the launcher that passes it on.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """`reason` names the signal that asked, and is None until one did."""

    reason: str | None = None

    def flags(self) -> list[int]:
        """What was asked for as numbers, which ranks can add up."""
        return [int(self.reason == number.name) for number in _SIGNALS]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = self.reason or signal.Signals(number).name


def reason_in(flags: Sequence[int]) -> str | None:
    """The name of the signal that any rank was sent, given the sum of all ranks' flags."""
    return next((number.name for number, count in zip(_SIGNALS, flags, strict=True) if count), None)


_listening: list[StopRequest] = []


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listens for Ctrl-C, SIGTERM and SIGUSR1 inside the block; a block inside another shares what was asked.

    Outside the main thread Python cannot listen, and nothing asks.
    """
    if _listening or threading.current_thread() is not threading.main_thread():
        yield _listening[0] if _listening else StopRequest()
        return
    request = StopRequest()
    before = {number: signal.signal(number, request._handle) for number in _SIGNALS}
    _listening.append(request)
    try:
        yield request
    finally:
        _listening.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
