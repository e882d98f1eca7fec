"""Company for a measurement: processes that keep cores busy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends with the process that started it, however that ends.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))\n"


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """While the block runs, `number` other processes compute as fast as they can."""
    others: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            others.append(subprocess.Popen([sys.executable, "-S", "-c", _SPIN]))
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()
