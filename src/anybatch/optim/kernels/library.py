"""The compiled C of `cpu.c`: whether it is there, why not, and its calls."""

import ctypes
import hashlib
from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_HERE = Path(__file__).parent
# What the C looks at: a subclass may keep its numbers elsewhere, and nothing has none.
SEEN = {Tensor, torch.nn.Parameter, type(None)}

_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p


def source_mark(source: bytes) -> str:
    """What a build says of the source that it was made from; `setup.py` computes the same."""
    return hashlib.sha256(source).hexdigest()[:16]


class Library:
    """The functions of `cpu.c`. Those that look at Python's objects keep the GIL; the others let it go.

    Raises:
        OSError: the file is not there, cannot be loaded, or was built from another source.
        RuntimeError: this PyTorch has no C functions for DLPack.
    """

    def __init__(self, path: Path) -> None:
        free, held = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
        built = ctypes.string_at(_POINTER.in_dll(free, "ab_source").value or 0).decode()
        source = _HERE / "cpu.c"
        if source.exists() and built != source_mark(source.read_bytes()):
            raise OSError(f"{path.name} was built from another version of cpu.c: install the package again")
        self.take_view = _take_view()
        self.plan = _declared(
            free.ab_plan, _POINTER, _INT, _POINTER, _INT, _POINTER, _INT, _POINTER, _INT, ctypes.c_int
        )
        self.free = _declared(free.ab_free, None, _POINTER)
        self.step = _declared(free.ab_step, ctypes.c_int, _POINTER, _POINTER, _INT, *[ctypes.c_int] * 2, _POINTER)
        self.squares = _declared(free.ab_squares, ctypes.c_int, _INT, _POINTER, ctypes.c_int, _POINTER)
        self.fetch = _declared(held.ab_fetch, ctypes.c_int, _POINTER, _POINTER, _POINTER, _POINTER)
        self.arrays = _declared(held.ab_arrays, _INT, _INT, _POINTER, _POINTER, _POINTER)


def _declared(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


def _take_view() -> int:
    """The address of PyTorch's C function that says where a tensor is, how large and of what dtype.

    It is the fourth function of DLPack's exchange table (dlpack.h), behind a version and a pointer to older tables.
    """
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        raise RuntimeError(f"torch {torch.__version__} has no DLPack exchange table (__dlpack_c_exchange_api__)")
    pointer = _declared(ctypes.pythonapi.PyCapsule_GetPointer, _POINTER, ctypes.py_object, ctypes.c_char_p)
    table: int = pointer(capsule, b"dlpack_exchange_api")
    if ctypes.c_uint32.from_address(table).value != 1:
        raise RuntimeError(f"torch {torch.__version__} speaks another DLPack than version 1")
    address = _POINTER.from_address(table + 8 + 8 + 3 * 8).value
    if not address:
        raise RuntimeError(f"torch {torch.__version__} has no C function for DLPack's views")
    return address


@cache
def library() -> Library | str:
    """The library, or why there is none."""
    built = sorted(_HERE.glob("_cpu*.so"))
    if not built:
        failed = _HERE / "_cpu.failed"
        why = failed.read_text(encoding="utf-8").strip() if failed.exists() else "the package was installed without it"
        return f"the C kernels were not compiled: {why}"
    why = ""
    for path in built:
        try:
            return Library(path)
        except (OSError, RuntimeError, AttributeError, ValueError) as error:
            why = str(error)
    return f"the C kernels cannot be loaded: {why}"


def addresses(objects: Iterable[object]) -> "array[int]":
    """The addresses of Python objects, for the functions that read them."""
    return array("Q", map(id, objects))


def address(t: Tensor) -> int:
    """Where the numbers of `t` are, for the functions that write there.

    Raises:
        RuntimeError: not in the CPU's memory.
    """
    if type(t) is not Tensor or not t.is_cpu:
        raise RuntimeError(f"the C kernels write to the CPU's memory alone, not to a {type(t).__name__} on {t.device}")
    return t.data_ptr()


class _Array(ctypes.Structure):
    _fields_ = (("at", _POINTER), ("numel", _INT), ("narrow", ctypes.c_int32))


def squares(tensors: Sequence[Tensor]) -> Tensor | None:
    """The sum of squares of each tensor, float64, with the same bits on any number of threads.

    None where one is not dense and fp32 or bf16 on the CPU, or where there is no library.
    """
    lib = library()
    if isinstance(lib, str) or not set(map(type, tensors)) <= SEEN or not all(map(attrgetter("is_cpu"), tensors)):
        return None
    places, count = (_Array * len(tensors))(), len(tensors)
    objects = addresses(tensors)
    if lib.arrays(count, lib.take_view, objects.buffer_info()[0], places) < count:
        return None
    sums = torch.empty(count, dtype=torch.float64, device="cpu")
    failed = lib.squares(count, places, torch.get_num_threads(), address(sums))
    return None if failed else sums
