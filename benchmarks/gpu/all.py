"""Everything that has to be known of a GPU, in two calls of under ten minutes each; a third has the experiments.

    python benchmarks/gpu/all.py --out DIR --part 1
    python benchmarks/gpu/all.py --out DIR --part 2
    python benchmarks/gpu/all.py --out DIR --part 3 --cifar DIR --shards DIR --squad DIR
    python benchmarks/gpu/all.py --out DIR --device cpu --tiny        # does the program run? minutes on a CPU
    python benchmarks/gpu/all.py --out DIR --only step bert-large

Each section runs in a process of its own, which is ended at its limit. DIR/gpu.json is written after each: every figure
beside the range that was expected on an H100 and an H200, and whether it lies inside. What a section had found before
it failed or was ended is kept, and the next one starts. DIR/NAME.log has what a section printed. Nothing is
downloaded. Exit code 1: a section failed, or a figure that must hold does not; a time outside its range is a finding.
"""

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

# All that is imported; a test of tests is skipped without pytest, a peer without its package.
PACKAGES = ("torch", "numpy", "pydantic", "transformers", "tokenizers", "safetensors", "typer", "rich", "PIL")


def main() -> int:
    arguments = parse(sys.argv[1:])
    # Before torch and Triton are imported, which look at it.
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Nothing that is imported may ask the driver: a process that has done so cannot be forked into one that uses it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}; docs/performance.md says what to do without an index")
    from gpu.sections import SECTIONS

    unknown = set(arguments.only or ()) - {section.name for section in SECTIONS}
    if unknown:
        known = ", ".join(section.name for section in SECTIONS)
        raise SystemExit(f"--only {min(unknown)}: no such section; there are {known}")
    if arguments.alone is not None:
        alone(next(section for section in SECTIONS if section.name == arguments.alone), arguments, arguments.scratch)
    if arguments.device == "cuda" and not _count_gpus():
        raise SystemExit("torch finds no CUDA GPU here; --device cpu --tiny shows that the program runs")
    chosen = [
        section
        for section in SECTIONS
        if (arguments.only is None or section.name in arguments.only) and arguments.part in (None, section.part)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    preload()
    failed = False
    for section in chosen:
        failed |= not take(section, arguments)
    return int(failed)


def parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and the logs")
    parser.add_argument("--part", type=int, choices=(1, 2, 3), help="sections of one call; default: all")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these sections")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, whose times mean nothing")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10, in a layout that `anybatch train` reads")
    parser.add_argument("--shards", type=Path, help="text prepared by `anybatch data prepare`")
    parser.add_argument("--squad", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    for name in ("cifar", "shards", "squad"):
        path = getattr(arguments, name)
        if path is not None and not path.is_dir():
            parser.error(f"--{name} {path}: no such folder")
        setattr(arguments, name, path.resolve() if path is not None else None)
    return arguments


def _count_gpus() -> int:
    """Counted by a process of its own: whoever has asked the driver cannot fork one that uses a GPU."""
    pid = os.fork()
    if pid == 0:
        import torch

        os._exit(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def preload() -> None:
    """Imports what takes seconds, once for all sections; what is missing, the first one tells."""
    for name in (
        "anybatch.cli.running", "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2",
        "transformers.models.resnet.modeling_resnet", "torch._dynamo", "torch.distributed.fsdp", "torch.profiler",
        "triton", "tensorboard",
    ):  # fmt: skip
        with suppress(ImportError):
            importlib.import_module(name)


def take(section: Any, arguments: argparse.Namespace) -> bool:
    """Runs a section, writes what it found, and says whether all that must hold does."""
    from gpu.day import described

    from anybatch.files import write_json

    file = arguments.out / "gpu.json"
    known = json.loads(file.read_text()) if file.exists() else {"sections": {}}
    started = time.perf_counter()
    scratch = Path(tempfile.mkdtemp(prefix="gpu-day-"))
    found_file = scratch / "found.json"
    try:
        process = get_context("fork").Process(target=apart, args=(section, arguments, scratch))
        process.start()
        process.join(section.limit_s)
        outcome, why = "done", "not measured"
        if process.is_alive():
            outcome, why = "ended at its limit", f"ended after {section.limit_s} s"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        found = json.loads(found_file.read_text()) if found_file.exists() else {}
        ending = json.loads((scratch / "ending.json").read_text()) if (scratch / "ending.json").exists() else {}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if outcome == "done":
        outcome = ending.get("outcome", "failed")
        why = ending.get("why", f"the process ended with exit code {process.exitcode}")
    device = ending.get("device") or known.get("device", "")
    figures = described(found, section.expected, device if arguments.device == "cuda" else "CPU", why)
    known["device"] = device
    known["tiny"] = arguments.tiny
    known["sections"][section.name] = {
        "part": section.part,
        "limit_s": section.limit_s,
        "seconds": round(time.perf_counter() - started, 1),
        "outcome": outcome,
        **({} if outcome == "done" else {"why": why}),
        "figures": figures,
        "notes": found.get("notes", {}),
    }
    write_json(file, known)
    report(section.name, known["sections"][section.name])
    wrong = any(figure["verdict"] == "wrong" for figure in figures.values())
    return outcome in ("done", "skipped in part") and not wrong


def apart(section: Any, arguments: argparse.Namespace, scratch: Path) -> None:
    """The process of a section: a session of its own, so that whatever it starts ends with it."""
    import torch

    os.setsid()
    if torch.cuda._is_in_bad_fork():
        # Something that was imported has asked the driver nevertheless.
        again = [sys.executable, __file__, *sys.argv[1:], "--alone", section.name, "--scratch", str(scratch)]
        os.execv(sys.executable, again)
    alone(section, arguments, scratch)


def alone(section: Any, arguments: argparse.Namespace, scratch: Path) -> None:
    """Runs a section to its end, and leaves what it found in `scratch`."""
    log = os.open(arguments.out / f"{section.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch
    from gpu.day import Day, Skipped

    from anybatch.files import write_json

    torch.set_num_threads(1 if arguments.tiny else torch.get_num_threads())
    if arguments.tiny:
        _compile_without_a_compiler()
    paths = {name: getattr(arguments, name) for name in ("cifar", "shards", "squad")}
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    day = Day(device, arguments.tiny, scratch, scratch / "found.json", section.expected, paths)
    ending: dict[str, Any] = {"outcome": "done"}
    try:
        section.run(day)
    except Skipped as reason:
        ending = {"outcome": "skipped in part", "why": f"skipped: {reason}"}
    except BaseException as error:
        traceback.print_exc()
        ending = {"outcome": "failed", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    # Not asked before: a process that has used the GPU cannot fork one that does.
    with suppress(Exception):
        ending["device"] = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    write_json(scratch / "ending.json", ending)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _compile_without_a_compiler() -> None:
    """Blocks are traced and run as they are: a tiny run is to show that they are traced."""
    from torch import nn

    compiled = nn.Module.compile
    nn.Module.compile = lambda self: compiled(self, backend="eager")  # type: ignore[method-assign]


def report(name: str, found: dict[str, Any]) -> None:
    """A line for the section, and one for each figure."""
    print(f"{name}: {found['outcome']}, {found['seconds']} s{': ' + found['why'] if 'why' in found else ''}")
    for title, figure in found["figures"].items():
        value = figure["value"]
        told = "-" if value is None else f"{value:.4g} {figure['unit']}"
        print(f"  {title}: {told} ({figure['verdict']})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
