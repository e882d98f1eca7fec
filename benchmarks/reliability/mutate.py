"""Damages small inputs of every kind at random, and looks at what the readers make of them.

    python benchmarks/reliability/mutate.py --files 2000 [--kinds text/jsonl image] [--out results/mutations.json]

Each damaged input is read in a process of its own, by the function that the commands call. It must be refused in one
line (InputError), or give what the kind's reference reader gives; within 60 s and 4 GiB. All draws follow --seed, the
kind and the number of the file, so that `--kinds KIND --only NUMBER` shows one again. Prints a JSON object; exit code 1
if an input gave a traceback, another value than the reference's, or took too much.

A kind is a `Kind` in one of the modules kinds_*.py beside this file.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from anybatch.errors import InputError

LONGEST_S = 60
MOST_BYTES = 4 << 30
GOOD = ("refused", "read", "read in part")


@dataclass(frozen=True)
class Kind:
    """An input in a folder of its own, and two readers of it.

    make: writes a sound input into the folder.
    read: what the package makes of it, in values whose repr tells them apart; raises InputError to refuse it.
    reference: the same by the library or program that defines the convention; raises anything to refuse it. None: there
        is no other reader, and only refusals, time and memory are looked at.
    compare: (ours, reference's) -> whether ours is right though not equal, because it leaves something out and says so.
    files: patterns of the files in the folder that are damaged.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any] | None = None
    compare: Callable[[Any, Any], bool] | None = None
    files: tuple[str, ...] = ("*",)


class ReferenceRefuses(Exception):
    """The reference reader takes the input for damaged."""


def mutate(folder: Path, patterns: tuple[str, ...], draw: random.Random) -> list[str]:
    """Damages one file in the folder, one to three times; returns what was done."""
    files = sorted(path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    file = draw.choice(files)
    done = [str(file.relative_to(folder))]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = file.read_bytes()
        ways = _BYTES
        if file.suffix in (".json", ".jsonl") and draw.random() < 0.5:
            ways = (_json,)
        elif file.suffix in (".txt", ".toml") and draw.random() < 0.5:
            ways = (_line,)
        way = draw.choice(ways)
        file.write_bytes(way(content, draw))
        done.append(way.__name__.strip("_"))
    return done


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    begin, end = _span(content, draw)
    filler = draw.choice((bytes(end - begin), b"\xff" * (end - begin), draw.randbytes(end - begin)))
    return content[:begin] + filler + content[end:]


def _delete(content: bytes, draw: random.Random) -> bytes:
    begin, end = _span(content, draw)
    return content[:begin] + content[end:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    begin, end = _span(content, draw)
    return content[:end] + content[begin:end] * draw.choice((1, 1, 3)) + content[end:]


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, draw: random.Random) -> bytes:
    place = draw.choice((0, draw.randrange(len(content) + 1), len(content)))
    more = draw.choice(
        (b"\0", bytes(4), b"\xef\xbb\xbf", b"\r", b"\n", b"\xe2\x80\xa8", b"\xcc\x81", draw.randbytes(20))
    )
    return content[:place] + more + content[place:]


def _exchange(content: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    middle = draw.randint(a, b)
    return content[:a] + content[middle:b] + content[a:middle] + content[b:]


_BYTES = (_flip, _flip, _overwrite, _delete, _repeat, _truncate, _insert, _exchange)


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    begin = draw.randrange(len(content) + 1)
    return begin, min(len(content), begin + draw.choice((1, 4, 30, 400)))


def _line(content: bytes, draw: random.Random) -> bytes:
    """Drops, repeats or moves a line."""
    lines = content.split(b"\n")
    number = draw.randrange(len(lines))
    line = lines.pop(number)
    for _ in range(draw.choice((0, 1, 2))):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice((line, line.swapcase(), b"", line * 2)))
    return b"\n".join(lines)


def _json(content: bytes, draw: random.Random) -> bytes:
    """Changes, drops or adds a value of a JSON text, or of one line of JSON lines."""
    lines = content.split(b"\n")
    whole = not content.startswith(b"{") or b"\n{" not in content
    number = 0 if whole else draw.randrange(len(lines))
    try:
        value = json.loads(content if whole else lines[number])
    except ValueError:
        return _flip(content, draw)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        inner = (
            list(each.items()) if isinstance(each, dict) else list(enumerate(each)) if isinstance(each, list) else []
        )
        places += [(each, key) for key, _ in inner]
        waiting += [item for _, item in inner]
    if not places:
        return _flip(content, draw)
    holder, key = draw.choice(places)
    old = holder[key]
    new = draw.choice((
        None, True, 0, -1, 1, 10**18, 1e300, "", "x", "\ud800", "cafe\u0301", [], {}, [old], {"a": old}, str(old),
        old * 2 if isinstance(old, (str, int, list)) and len(str(old)) < 10_000 else old,
    ))  # fmt: skip
    if draw.random() < 0.2:
        del holder[key]
    elif isinstance(holder, list) and draw.random() < 0.3:
        holder.insert(key, new)
    elif isinstance(holder, dict) and draw.random() < 0.2:
        holder[str(key) + draw.choice(("", "x", " "))] = holder.pop(key)
    else:
        holder[key] = new
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return text if whole else b"\n".join([*lines[:number], text, *lines[number + 1 :]])


@dataclass
class Ended:
    """How a process ended: `how` it did, what it told, and what it cost."""

    how: str
    told: str
    value: Any
    seconds: float
    bytes: int


def apart(work: Callable[[], Any]) -> Ended:
    """`work` in a process of its own: "read", "refused", "traceback", "slow", or "killed"."""
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    if not answer:
        slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        return Ended("slow" if slow else "killed", f"status {status}", None, seconds, usage.ru_maxrss << 10)
    how, told, value = json.loads(answer)
    return Ended(how, told, value, seconds, usage.ru_maxrss << 10)


def _in_child(work: Callable[[], Any], writing: int) -> None:
    signal.alarm(LONGEST_S)
    resource.setrlimit(resource.RLIMIT_AS, (4 * MOST_BYTES, 4 * MOST_BYTES))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    try:
        value = work()
        answer = ["read", "", value]
    except InputError as error:
        one_line = "\n" not in str(error)
        answer = ["refused" if one_line else "several lines", str(error), None]
    except BaseException:
        answer = ["traceback", traceback.format_exc(limit=-6), None]
    content = json.dumps(answer).encode("utf-8", "surrogatepass")
    with open(writing, "wb") as pipe:
        pipe.write(content)
    os._exit(0)


def told_apart(value: Any) -> Any:
    """A value as JSON brings it over a pipe, long texts and bytes as their sums."""
    if isinstance(value, dict):
        return {str(key): told_apart(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [told_apart(item) for item in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def judge(kind: Kind, folder: Path) -> tuple[str, str, Ended]:
    """What became of an input, a word about it, and the package's own process."""
    ours = apart(lambda: told_apart(kind.read(folder)))
    if ours.bytes > MOST_BYTES:
        return "large", f"{ours.bytes >> 20} MiB", ours
    if ours.how != "read" or kind.reference is None:
        return ours.how, ours.told, ours
    reference = kind.reference
    theirs = apart(lambda: told_apart(reference(folder)))
    if theirs.how != "read":
        return "reference refuses", theirs.told[-300:], ours
    if ours.value == theirs.value:
        return "read", "", ours
    if kind.compare is not None and kind.compare(ours.value, theirs.value):
        return "read in part", "", ours
    return "differs", _first_difference(ours.value, theirs.value), ours


def _first_difference(one: Any, other: Any) -> str:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for a, b in zip(one, other, strict=True):
            if a != b:
                return _first_difference(a, b)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            if one[key] != other[key]:
                return f"{key}: {_first_difference(one[key], other[key])}"
    return f"{str(one)[:200]!r} where the reference has {str(other)[:200]!r}"


def kinds() -> list[Kind]:
    modules = sorted(path.stem for path in Path(__file__).parent.glob("kinds_*.py"))
    return [kind for module in modules for kind in importlib.import_module(module).KINDS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="damaged inputs, over all kinds")
    parser.add_argument("--kinds", nargs="+", help="names or beginnings of names of kinds")
    parser.add_argument("--only", type=int, help="the number of one damaged input; it is kept, and its folder printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the JSON object is written, too")
    given = parser.parse_args()
    chosen = [kind for kind in kinds() if not given.kinds or kind.name.startswith(tuple(given.kinds))]
    tables: dict[str, Any] = {}
    total: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        for place, kind in enumerate(chosen):
            sound = Path(scratch) / str(place)
            sound.mkdir()
            kind.make(sound)
            outcome, why, _ = judge(kind, sound)
            if outcome != "read":
                failures.append({"kind": kind.name, "number": None, "done": "nothing", "outcome": outcome, "why": why})
            count = given.files // len(chosen) + (place < given.files % len(chosen))
            outcomes: Counter[str] = Counter()
            slowest, largest = 0.0, 0
            for number in range(count) if given.only is None else [given.only]:
                folder = Path(tempfile.mkdtemp()) / "input" if given.only is not None else Path(scratch) / "damaged"
                shutil.copytree(sound, folder)
                done = mutate(folder, kind.files, random.Random(f"{given.seed} {kind.name} {number}"))
                outcome, why, cost = judge(kind, folder)
                outcomes[outcome] += 1
                slowest, largest = max(slowest, cost.seconds), max(largest, cost.bytes)
                if given.only is not None:
                    print(folder, done, outcome, why, str(cost.value)[:2000])
                    continue
                if outcome not in GOOD:
                    told = {"kind": kind.name, "number": number, "done": done, "outcome": outcome, "why": why}
                    failures.append(told)
                    print(json.dumps(told), file=sys.stderr)
                shutil.rmtree(folder)
            total += outcomes
            tables[kind.name] = {**outcomes, "slowest_s": round(slowest, 2), "most_MiB": largest >> 20}
    result = {
        "files": sum(total.values()),
        "seed": given.seed,
        "outcomes": dict(total),
        "kinds": tables,
        "failures": failures,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None and given.only is None:
        given.out.write_text(text + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    # The kinds import the module by its name: it must be this one.
    sys.modules["mutate"] = sys.modules["__main__"]
    sys.exit(main())
