"""How the C is compiled: each instruction set gives the same bits, and no compiler is no failure."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import anybatch
from anybatch.optim import LAMB, LARS
from anybatch.optim.kernels import cpu, library

ROOT = Path(anybatch.__file__).parents[2]
SOURCE = Path(library.__file__).with_name("cpu.c")
FLAGS = "-std=gnu11 -O3 -fno-fast-math -ffp-contract=off -fno-math-errno -fno-trapping-math -fPIC -shared -pthread"


def built(tmp_path: Path, name: str, *more: Any) -> Any:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    mark = library.source_mark(SOURCE.read_bytes())
    target = tmp_path / f"{name}.so"
    command = [compiler, *FLAGS.split(), f'-DSOURCE="{mark}"', *more, str(SOURCE), "-o", str(target), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    return library.Library(target)


def end(monkeypatch: pytest.MonkeyPatch, lib: Any) -> Any:
    monkeypatch.setattr(cpu, "library", lambda: lib)
    generator = torch.Generator().manual_seed(0)
    found = []
    makers = (
        lambda params: LAMB(params, lr=0.01, fused=True),
        lambda params: LAMB(params, lr=0.01, betas=(0.3, 0.9), nesterov="mv", fused=True),
        lambda params: LARS(params, 0.01, weight_decay=0.1, nesterov=True, fused=True),
        lambda params: LARS(params, 0.01, form="lars-2017", weight_decay=0.1, fused=True),
    )
    for make in makers:
        for dtype in (torch.float32, torch.bfloat16):
            params = [nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for n in (5, 1003, 140_003)]
            optimizer = make(params)
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                optimizer.step()
            found += [*params, *(value for p in params for value in optimizer.state[p].values())]
    return found


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are those of x86-64")
def test_every_instruction_set_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"installed": library.library(), "sse2": built(tmp_path, "sse2", "-DCLONES=", "-march=x86-64")}
    # So does every order of the work: here u is made twice, or waits for its place in the scratch.
    sets["twice"] = built(tmp_path, "twice", "-DSMALL=1", "-DLARGE=1", "-DRING=CHUNK")
    sets["waits"] = built(tmp_path, "waits", "-DSMALL=1", "-DLARGE=1", "-DRING=(5*CHUNK)", "-DLAG=1", "-DPER_THREAD=1")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    for name, march, needed in (("avx2", "x86-64-v3", "avx2"), ("avx512", "x86-64-v4", "avx512vl")):
        if needed in flags:
            sets[name] = built(tmp_path, name, "-DCLONES=", f"-march={march}")
    ends = {name: end(monkeypatch, lib) for name, lib in sets.items()}
    for name, values in ends.items():
        assert all(torch.equal(a, b) for a, b in zip(values, ends["sse2"], strict=True)), name


def test_a_build_of_another_source_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"built from another version of cpu\.c"):
        built(tmp_path, "other", "-USOURCE", '-DSOURCE="another"', "-O0")


@pytest.mark.without_kernels
@pytest.mark.parametrize("compiler", ["false", "/nonexistent/cc"])
def test_an_installation_without_a_compiler_works_and_says_why(tmp_path: Path, compiler: Any) -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("the source tree is not here")
    pytest.importorskip("setuptools")
    ignored = shutil.ignore_patterns("*.so", "_cpu.failed", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    environment = {**os.environ, "CC": compiler, "PYTHONPATH": ""}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    program = """
import torch
from anybatch import LAMB
from anybatch.optim.kernels import why_not_fused
p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
p.grad = torch.ones(2)
LAMB([p], lr=0.1).step()
assert p.norm() < 5
try:
    LAMB([p], fused=True)
except ValueError as error:
    print(error)
"""
    environment["PYTHONPATH"] = str(tmp_path / "src")
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fused=True: the C kernels were not compiled: " in done.stdout
    assert Path(compiler).name in done.stdout


def test_threads_are_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    lib = library.library()
    original = lib.step
    monkeypatch.setattr(lib, "step", lambda *args: asked.append(args[4]) or original(*args))
    p = nn.Parameter(torch.ones(8))
    p.grad = torch.ones(8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        LAMB([p], fused=True).step()
    finally:
        torch.set_num_threads(threads)
    assert asked == [1]
    assert ctypes.sizeof(cpu._Rule) == 6 * 4 + 12 * 8
