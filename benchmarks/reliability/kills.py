"""Kills commands at random moments, runs them again until they end, and compares with what nobody touched.

    python benchmarks/reliability/kills.py --kills 50 [--what study] [-o benchmarks/results/reliability.json]

Every command is a process of its own with small inputs. SIGKILL, SIGTERM or SIGINT, drawn from --seed, is sent at a
moment drawn from the time that the undisturbed command took, to the process or to its whole group, as a terminal does;
the same command is then given again, until the kills are spent, and a last time to its end. One that ends before its
signal is compared, removed and begun anew.

Sound: every result is that of the undisturbed command (prepare and report: every file, byte for byte; study: its table;
demo: weights and scores of all runs); every exit code is one that the signal allows; nothing is printed but lines; no
process is left two minutes after the command, and in the end no file or lock that the undisturbed command did not
leave. Prints a JSON object; exit code 1 if something is not sound.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybatch.environment import describe_environment
from anybatch.files import write_json

SIGNALS = {
    # Negative: by the signal itself, before Python listens, or by SIGKILL.
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {-signal.SIGTERM, 143, 75},
    signal.SIGINT: {-signal.SIGINT, 130, 75},
}
MARK = "ANYBATCH_KILLED"
SMALL_DEMO = Path(__file__).with_name("small_demo.py")
PATIENCE_S = 600.0
# A worker that was just started sees that its command is gone once it has imported torch: seconds, more under load.
MOST_ORPHANED_S = 120.0


@dataclass(frozen=True)
class Case:
    """A command with its output folder, and what of that must be the same."""

    command: Callable[[Path], list[str]]
    result: Callable[[Path], Any]


@dataclass
class Tally:
    """What happened to one command."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    undisturbed_s: float = 0.0
    slowest_end_s: float = 0.0
    slowest_orphan_s: float = 0.0
    faults: list[str] = field(default_factory=list)


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(folder: Path) -> Any:
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    del found["environment"]
    return found


def weights_and_scores(folder: Path) -> Any:
    weights = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("model/model.safetensors")}
    results = {str(file.relative_to(folder)): json.loads(file.read_text()) for file in folder.rglob("result.json")}
    return weights, {name: result["final"] for name, result in results.items()}


def cases(inputs: Path) -> dict[str, Case]:
    anybatch = [sys.executable, "-m", "anybatch"]
    study = [
        "study",
        "digits-lenet",
        "--protocol=untuned",
        "--seeds=2",
        "--batch-size=64",
        "--heartbeat=1",
        "--workers=2",
    ]
    study += [
        "--optimizer=lamb",
        "--optimizer=momentum",
        "--set=reference.num_examples=2048",
        "--set=reference.num_epochs=null",
    ]
    prepare = ["data", "prepare", str(inputs / "text.txt"), "--vocabulary-size=500", "--processes=2"]
    return {
        "prepare": Case(lambda out: [*anybatch, *prepare, f"--out={out / 'shards'}"], every_byte),
        "report": Case(
            lambda out: [*anybatch, "report", str(inputs / "runs"), f"--out={out / 'page.html'}"], every_byte
        ),
        "study": Case(lambda out: [*anybatch, *study, f"--out={out / 'study'}"], lambda out: table(out / "study")),
        "demo": Case(
            lambda out: [sys.executable, str(SMALL_DEMO), "demo", f"--out={out / 'demo'}"], weights_and_scores
        ),
    }


def write_text(inputs: Path) -> None:
    words = random.Random(0)
    documents = (
        " ".join(f"{' '.join(words.choices('abcdefghij', k=12)).capitalize()} ends here." for _ in range(20))
        for _ in range(3000)
    )
    (inputs / "text.txt").write_text("\n\n\n".join(documents))


def write_runs(inputs: Path) -> None:
    for seed in range(2):
        run = ["train", "digits-lenet", "--set", "reference.num_examples=2048", "--set", "reference.num_epochs=null"]
        command = [
            sys.executable,
            "-m",
            "anybatch",
            *run,
            "--set",
            f"seed={seed}",
            "--run",
            inputs / "runs" / str(seed),
        ]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def start(case: Case, out: Path, log: Path) -> "subprocess.Popen[bytes]":
    out.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(out), "TMPDIR": str(out.parent / "tmp")}
    with open(log, "wb") as file:
        return subprocess.Popen(
            case.command(out), env=environment, stdout=file, stderr=file, start_new_session=True, cwd=out.parent
        )


def marked(out: Path) -> list[int]:
    """The processes that were started for `out` and are left, whoever their parent is now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={out}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob(".*")}


def disturb(
    case: Case, kills: int, until: float, folder: Path, chance: random.Random, tell: Callable[[str], None]
) -> Tally:
    (folder / "tmp").mkdir(parents=True)
    log, whole, killed, tally = folder / "log", folder / "whole", folder / "killed", Tally()
    began = time.monotonic()
    assert start(case, whole, log).wait(PATIENCE_S) == 0, log.read_text()
    tally.undisturbed_s = time.monotonic() - began
    expected, expected_hidden = case.result(whole), hidden(whole)

    def compare() -> None:
        tally.finished += 1
        if case.result(killed) != expected:
            tally.faults.append("the result differs")
        if left := hidden(killed) - expected_hidden | {path.name for path in (folder / "tmp").glob("anybatch-*")}:
            tally.faults.append(f"left over: {sorted(left)}")
        subprocess.run(["rm", "-rf", str(killed)], check=True)

    told = 0
    while tally.kills.total() < kills and time.monotonic() < until:
        process = start(case, killed, log)
        moment_s = chance.uniform(0, 1.1 * tally.undisturbed_s)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        if process.poll() is None:
            number, group = chance.choice(list(SIGNALS)), chance.random() < 0.5
            (os.killpg if group else os.kill)(process.pid, number)
            sent = time.monotonic()
            code = process.wait(PATIENCE_S)
            tally.slowest_end_s = max(tally.slowest_end_s, time.monotonic() - sent)
            said = log.read_text(errors="replace")
            name = f"{number.name}{' to all' if group else ''}"
            tally.kills[name] += 1
            tally.codes[str(code)] += 1
            if code not in SIGNALS[number] | {0}:
                tally.faults.append(f"{name} at {moment_s:.2f} s: exit code {code}: {said[-300:]}")
            if "Traceback" in said or "Exception ignored" in said:
                tally.faults.append(f"{name} at {moment_s:.2f} s: {said[-1000:]}")
            ended = time.monotonic()
            while marked(killed) and time.monotonic() - ended < MOST_ORPHANED_S:
                time.sleep(0.05)
            tally.slowest_orphan_s = max(tally.slowest_orphan_s, time.monotonic() - ended)
            if left := marked(killed):
                tally.faults.append(f"{name} at {moment_s:.2f} s: {len(left)} processes are left")
                for one in left:
                    with suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
            found = tally.faults[told:] or "sound"
            tell(f"{tally.kills.total()} of {kills}: {name} at {moment_s:.1f} s, code {code}; {found}")
            told = len(tally.faults)
        # Killed between its last rename and its end, a command is done, and says so when it is given again.
        if process.returncode == 0 or (process.returncode == 2 and "already exists" in log.read_text()):
            compare()
        elif process.returncode in (1, 2):
            tally.faults.append(f"exit code {process.returncode}: {log.read_text()[-500:]}")
            subprocess.run(["rm", "-rf", str(killed)], check=True)
    if start(case, killed, log).wait(PATIENCE_S) != 0:
        tally.faults.append(f"the last start failed: {log.read_text()[-500:]}")
    else:
        compare()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each command, after which no kill is begun")
    parser.add_argument("--what", action="append", choices=["prepare", "report", "study", "demo"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="write the JSON object here, too; other commands in it are kept")
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        write_text(Path(name))
        if "report" in (asked.what or ["report"]):
            write_runs(Path(name))
        for what, case in cases(Path(name)).items():
            if what not in (asked.what or [what]):
                continue
            chance = random.Random(f"{asked.seed} {what}")
            until = time.monotonic() + 60 * asked.minutes
            tally = disturb(
                case,
                asked.kills,
                until,
                Path(name) / what,
                chance,
                lambda line, what=what: print(what, line, file=sys.stderr),
            )
            found[what] = {
                "kills": dict(tally.kills),
                "exit codes": dict(tally.codes),
                "ends compared": tally.finished,
                "undisturbed_s": round(tally.undisturbed_s, 1),
                "slowest end after a signal_s": round(tally.slowest_end_s, 1),
                "slowest end of its processes after it_s": round(tally.slowest_orphan_s, 1),
                "faults": tally.faults,
                "environment": describe_environment(),
            }
            if asked.out is not None:
                write_json(asked.out, found)
    print(json.dumps(found, indent=1))
    return int(any(one["faults"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
