"""Requests to stop: the first signal lets the step finish and the state be saved, a second Ctrl-C ends at once.

Other signals may come twice: a cluster's scheduler signals a process and also the launcher, which passes it on.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anybatch.errors import Stopped
from anybatch.process import ENDING, listening


class StopRequest:
    """A request to stop: `reason` names the signal that asked, and is None until one did."""

    reason: str | None = None
    _at_once = False

    def flags(self) -> list[int]:
        """Returns the request as numbers, which ranks can add up."""
        return [int(self.reason == number.name) for number in ENDING]

    @contextmanager
    def at_once(self, what: str) -> Iterator[None]:
        """A block that ends if a stop is requested in it or before it: Stopped contains the reason and `what`."""
        try:
            self._at_once = True
            if self.reason is not None:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            if self.reason is None:
                raise
            raise Stopped(f"{self.reason} {what}") from None
        finally:
            self._at_once = False

    def heard(self, number: int) -> None:
        again = self.reason is not None and number == signal.SIGINT
        self.reason = self.reason or signal.Signals(number).name
        if again or self._at_once:
            raise KeyboardInterrupt


def reason_in(flags: Sequence[int]) -> str | None:
    """Returns the name of the signal that any rank got, from the sum of all ranks' flags."""
    return next((number.name for number, count in zip(ENDING, flags, strict=True) if count), None)


_listening: list[StopRequest] = []


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listens for Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 inside the block; nested blocks share the request.

    Outside the main thread Python cannot listen, and no stop is requested.
    """
    if _listening or threading.current_thread() is not threading.main_thread():
        yield _listening[0] if _listening else StopRequest()
        return
    request = StopRequest()
    try:
        with listening(request.heard):
            _listening.append(request)
            yield request
    finally:
        _listening.clear()
