"""Memory traffic: how much an optimizer's operations need, and how fast the machine is."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anybatch.machine.problem import Unavailable

_SOURCE = Path(__file__).with_name("traffic.c")
_CHUNK = 65_536


class CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that torch's operations read and write, as if there were no cache between two of them.

    It does not see kernels of another kind (C, jax, a compiled graph).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        schema = function._schema
        returned = [each.alias_info for each in schema.returns]
        packet = function.overloadpacket
        if packet in _ALLOCATES or any(alias is not None and not alias.is_write for alias in returned):
            return result  # memory that nobody has written, or a view
        given = [*args, *(kwargs.get(each.name) for each in schema.arguments[len(args) :])]
        for value, declared in zip(given, schema.arguments, strict=False):
            size = sum(_size(t) for t in _tensors(value))
            written = declared.alias_info is not None and declared.alias_info.is_write
            read = packet not in _FILLS and not (written and packet in _OVERWRITES)
            self.bytes += size * (read + written)
        results = result if len(returned) > 1 else [result]
        self.bytes += sum(
            _size(t) for value, alias in zip(results, returned, strict=False) if alias is None for t in _tensors(value)
        )
        return result


_aten = torch.ops.aten
_ALLOCATES = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}
_FILLS = {_aten.zeros_like, _aten.ones_like, _aten.full_like, _aten.new_zeros, _aten.new_ones, _aten.new_full}
_OVERWRITES = {_aten.copy_, _aten.zero_, _aten.fill_, _aten._foreach_copy_}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _size(t: Tensor) -> int:
    # An expanded tensor has fewer bytes than elements.
    return min(t.numel() * t.element_size(), t.untyped_storage().nbytes())


def pattern(gradients: Sequence[Tensor], written: Sequence[Sequence[Tensor]]) -> Callable[[], None]:
    """Returns a function that reads the gradients, and reads and writes the others in place, on torch's threads.

    Args:
        written: two lists (as SGD with momentum writes) or three (as Adam does) of tensors like the gradients.

    Raises:
        Unavailable: there is no C compiler that works.
    """
    library = _compiled()
    work = library.four_read_three_written if len(written) == 3 else library.three_read_two_written
    rows = []
    for g, *others in zip(gradients, *written, strict=True):
        for start in range(0, g.numel(), _CHUNK):
            addresses = [t.data_ptr() + 4 * start for t in (g, *others)]
            rows.append([*addresses, *[0] * (4 - len(addresses)), min(_CHUNK, g.numel() - start)])
    chunks = torch.tensor(rows, dtype=torch.int64)
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)

    def step() -> None:
        ticket = ctypes.c_size_t(0)
        arguments = (ctypes.c_void_p(chunks.data_ptr()), ctypes.c_size_t(len(rows)), ctypes.byref(ticket), 0)
        for each in [pool.submit(work, *arguments) for _ in range(threads)]:
            each.result()

    return step


def _compiled() -> ctypes.CDLL:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "traffic.so"
        for tuned in (["-march=native"], []):  # which not every compiler knows
            command = [*compiler.split(), "-O3", *tuned, "-shared", "-fPIC", str(_SOURCE), "-o", str(library)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"the C compiler does not run: {error}") from None
            if done.returncode == 0:
                return ctypes.CDLL(str(library))
        raise Unavailable(f"the C compiler failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
