"""How files become visible: whole or not at all."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anybatch.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a machine that loses power, sees the old content or the new, never a mixture.

    A link is followed. A device or a pipe cannot be replaced, and is written to directly.
    """
    given, path = path, path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    scratch = _scratch_of(path)
    with named_errors(given, scratch):
        try:
            with open(scratch, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, as `write_text` does; non-ASCII text stays readable."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Returns the text in `path`, without a byte order mark; InputError names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file in it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None


def read_json(path: Path) -> Any:
    """Returns the JSON value in `path`; InputError names the file, and the line with the fault."""
    content = read_text(path)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid JSON: {why_not_json(error)}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`; InputError if it holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, not {json_kind(value)}")
    return value


def json_kind(value: Any) -> str:
    """Returns the name of a value in JSON, with its article: 'a list', 'null'; for another kind, its type."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return kinds.get(type(value), f"of type {type(value).__name__}")


def why_not_json(error: Exception) -> str:
    """Returns why json.loads failed, if the cause is not the grammar of JSON."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; a normal exit renames it to `path`, an exception removes it.

    The remains of killed processes for the same folder are removed.

    Raises InputError if `path` exists already and is not an empty folder.
    """
    given, path = path, path.resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{given}: already exists; choose another folder or remove it")
    with named_errors(given, _scratch_of(path)):
        scratch = scratch_folder(path)
        try:
            yield scratch
            reveal(scratch, path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def scratch_folder(path: Path) -> Path:
    """Makes an empty hidden folder beside `path`; fill it, then `reveal` shows it as `path`."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
    scratch = _scratch_of(path)
    scratch.mkdir()
    return scratch


def _scratch_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def reveal(scratch: Path, path: Path) -> None:
    """Writes everything in `scratch` to the disk, and renames it to `path`, in place of what is there."""
    for file in scratch.rglob("*"):
        if file.is_file():
            _to_disk(file)
    if path.is_dir() and any(path.iterdir()):
        shutil.rmtree(path)
    os.replace(scratch, path)
    _to_disk(path.parent)


def remove_leftovers(folder: Path, pattern: str = "*") -> None:
    """Removes scratch files and folders of ended processes in `folder`, for names like `pattern`."""
    for leftover in folder.glob(f".{pattern}.*.tmp"):
        number = leftover.name.split(".")[-2]
        if number.isdecimal() and not _alive(int(number)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait_s: float | None = None) -> Iterator[None]:
    """Holds the lock file `path` for the block; the system releases it if the process dies.

    Args:
        wait_s: seconds to wait for a process that holds it; None: until that process releases it.

    Raises:
        BlockingIOError: another process still holds it.
    """
    with open(path, "w") as file:
        if wait_s is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            end = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(0.02)
        yield


def is_empty(folder: Path) -> bool:
    """Returns whether `folder` holds only hidden scratch."""
    return all(entry.name.startswith(".") and entry.suffix in (".tmp", ".lock") for entry in folder.iterdir())


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def named_errors(path: Path | str, scratch: Path | None = None) -> Iterator[None]:
    """A block in which a system error, such as a full disk, gets the name that the user gave.

    write() knows no name; and if `scratch` is filled for `path`, the system knows only the name of `scratch`.
    """
    try:
        yield
    except OSError as error:
        found = None if error.filename is None else Path(os.fsdecode(error.filename))
        if found is None and error.errno is not None:
            error.filename = str(path)
        elif found is not None and scratch is not None and (found == scratch or scratch in found.parents):
            error.filename, error.filename2 = str(Path(path) / found.relative_to(scratch)), None
        raise


def told(error: OSError) -> str:
    """Returns the message for a system error: which file, and what is wrong with it."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
