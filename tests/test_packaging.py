"""What is installed: a wheel with the kernels, one without a compiler, what the base needs, and what it costs."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Of everything that an extra brings. The base installation has torch and NumPy.
EXTRAS = (
    "accelerate", "datasets", "jax", "lightning", "matplotlib", "optax", "optuna", "PIL", "pyarrow", "pydantic", "rich",
    "safetensors", "tensorboard", "timm", "tokenizers", "transformers", "typer",
)  # fmt: skip
STEP = """
import torch
from anybatch import LAMB, LARS, GradientNoiseScale, Layerwise, Reference, param_groups, schedule
from anybatch.optim.kernels import why_not_fused
run = Reference(32, lr=0.01, warmup_ratio=0.1, num_examples=640).at(64)
model = torch.nn.Linear(4, 3)
for make in (LAMB, LARS, lambda groups, lr: Layerwise(torch.optim.AdamW(groups, lr=lr))):
    optimizer = make(param_groups(model), lr=run.lr)
    before = model.weight.detach().clone()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
settings = {"norm": "l2", "fused": True, "foreach": None}
print(__import__("anybatch").__file__, why_not_fused(torch.device("cpu"), torch.float32, settings), sep="\\n")
"""


def python(code: str, folder: Path | None = None, **environment: str) -> str:
    """What the code prints, in a new process in which no extra can be imported; `folder` is looked in first."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
    paths = [str(folder)] if folder is not None else [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", blocked + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(folder: Path, compiler: str | None) -> Path:
    """Built by pip from a copy of what the source distribution has, in this environment."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "*.failed", "*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = dict(os.environ) if compiler is None else {**os.environ, "CC": compiler}
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir"]
    built = subprocess.run(
        [*command, str(folder), str(source)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert built.returncode == 0, built.stderr[-3000:]
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [None, "false"], ids=["with a compiler", "without one"])
def test_a_wheel_holds_what_a_user_needs(tmp_path: Path, compiler: str | None) -> None:
    if compiler is None and shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    found = wheel(tmp_path, compiler)
    assert re.fullmatch(r"anybatch-[^-]+-py3-none-[a-z0-9_.]+\.whl", found.name)
    with zipfile.ZipFile(found) as archive:
        names, size = archive.namelist(), sum(info.file_size for info in archive.infolist())
        archive.extractall(tmp_path / "site")
    there = {name.partition("/")[2] for name in names if name.startswith("anybatch/")}
    in_source = {
        str(path.relative_to(ROOT / "src" / "anybatch"))
        for path in (ROOT / "src" / "anybatch").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so", ".failed")
    }
    assert in_source - there == set(), "a file of the package is not installed"
    assert {name.partition("/")[0] for name in names} == {"anybatch", names[-1].partition("/")[0]}
    # 1.6 MB when this was written: sources, the kernels, 150 questions and 1,797 digits.
    assert size < 2_500_000
    file, why_not = python(STEP, tmp_path / "site").splitlines()
    assert Path(file).is_relative_to(tmp_path)
    if compiler is None:
        assert why_not == "None"
    else:
        assert "the C kernels were not compiled" in why_not


def test_the_base_installation_needs_torch_and_numpy_alone() -> None:
    python(STEP)


def test_importing_the_package_is_cheap() -> None:
    """In modules, which no busy machine changes: 29 when this was written, 5 of them Python's own."""
    code = "import sys, torch; before = set(sys.modules); import anybatch; print(*set(sys.modules) - before)"
    added = python(code).split()
    assert len(added) <= 40
    assert {name.partition(".")[0] for name in added} <= {"anybatch", *sys.stdlib_module_names}


def test_the_command_line_says_what_the_base_installation_lacks() -> None:
    code = """
import contextlib, io
from anybatch.__main__ import start
said = io.StringIO()
with contextlib.redirect_stderr(said):
    try:
        start()
    except SystemExit as ended:
        print(ended.code)
print(said.getvalue(), end="")
"""
    code_and_line = python(code).splitlines()
    assert code_and_line[0] == "2"
    assert len(code_and_line) == 2
    assert "pip install 'anybatch[train]'" in code_and_line[1]
