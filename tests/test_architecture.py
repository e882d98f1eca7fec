"""The house in one test: which room may import which, no import circle, and every name defined."""

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import anybatch

ROOT = Path(anybatch.__file__).parent

# Arrows run from a level to any later one; rooms of one level never import each other.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"study", "planner", "report", "machine", "integrations"},
    {"comparison"},
    {"recipes"},
    {"evaluation"},
    {"engine", "data", "models", "optim", "scaling"},
    {"accelerators", "elsewhere", "environment", "progress", "runs"},
    {"columns", "files", "names", "numbers", "process"},
    {"errors"},
)
# What a base installation has: the optimizers and the scaling rules need no more than torch.
LIGHT = {"optim": {"torch", "triton", "typing_extensions"}, "scaling": {"torch"}}
# What stands beside other people's loops leaves ours alone.
ALONE = {"integrations": {"optim", "scaling"}}
# Libraries that not every installation for development has: a module that is about one of them is passed over there.
OPTIONAL = {"torchtitan"}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["anybatch", *path.relative_to(ROOT).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.AST) -> list[tuple[str, list[str]]]:
    """(module, names) of every import statement, at any depth."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            found.append((str(node.module), [alias.name for alias in node.names]))
    return found


def room(module: str) -> str:
    """The first part below the package; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def level(name: str) -> int:
    return next(number for number, rooms in enumerate(LEVELS) if name in rooms)


def test_every_module_stands_in_a_known_room() -> None:
    known = set().union(*LEVELS) | {""}
    assert {room(module) for module in modules()} <= known


def test_arrows_run_one_way() -> None:
    wrong = []
    for module, tree in modules().items():
        here = room(module)
        if not here:
            continue
        for target, names in imports(tree):
            targets = [f"{target}.{name}" for name in names] if target == "anybatch" else [target]
            for imported in targets:
                there = room(imported) if imported.startswith("anybatch") else here
                if there != here and (level(there) <= level(here) or there not in ALONE.get(here, {there})):
                    wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_there_is_no_import_circle() -> None:
    found = modules()
    graph: dict[str, set[str]] = {module: set() for module in found}
    for module, tree in found.items():
        for target, names in imports(tree):
            for imported in [f"{target}.{name}" for name in names]:
                used = imported if imported in found else target
                if used in found and used != module:
                    graph[module].add(used)
    # A package's own __init__ gathers its modules; a module that imports its package's __init__ would be a circle.
    TopologicalSorter(graph).prepare()


def load(module: str) -> ModuleType | None:
    """The module; without Triton, which not every platform has, the tests that need all modules are left out.

    None for a module about a library that is not here.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            return None
        if error.name != "triton":
            raise
        pytest.skip("triton is not installed")


def test_every_imported_name_is_defined() -> None:
    missing = []
    for module, tree in modules().items():
        for target, names in imports(tree):
            if not target.startswith("anybatch"):
                continue
            loaded = load(target)
            for name in names if loaded is not None else ():
                if not hasattr(loaded, name) and f"{target}.{name}" not in modules():
                    missing.append(f"{module}: {target}.{name}")
    assert not missing


def test_every_exported_name_is_defined() -> None:
    for module in modules():
        loaded = load(module) if not module.endswith("__main__") else None
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), f"{module}.__all__ names {name}"


def test_optimizers_and_rules_need_torch_alone() -> None:
    import sys

    for module, tree in modules().items():
        if room(module) not in LIGHT:
            continue
        allowed = LIGHT[room(module)] | sys.stdlib_module_names | {"anybatch"}
        outside = [target for target, _ in imports(tree) if target.split(".")[0] not in allowed]
        assert not outside, f"{module} imports {outside}"


# Why these are longer is said in docs/adr/0006-fused-cpu-step.md.
DEFENDED = {"src/anybatch/optim/kernels/cpu.c": 1_200}


def test_files_stay_short() -> None:
    """One question a file: beyond 400 lines it answers two. Tests, which are lists, may have a few more."""
    repository = ROOT.parents[1]
    long = {}
    for top, most in (("src", 400), ("benchmarks", 400), ("docs", 400), ("examples", 60), ("tests", 425)):
        for path in (repository / top).rglob("*.*"):
            name = str(path.relative_to(repository))
            if path.suffix in (".py", ".c") and path.read_text().count("\n") > DEFENDED.get(name, most):
                long[name] = path.read_text().count("\n")
    assert not long
    assert all((repository / name).read_text().count("\n") > 400 for name in DEFENDED), "needs no defence any more"


def test_what_is_said_of_the_house_is_true() -> None:
    """README names every room, CONTRIBUTING the arrows."""
    repository = ROOT.parents[1]
    readme = (repository / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    rooms = {name for name in re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) if name in set().union(*LEVELS)}
    assert rooms == folders - {"cli"}
    arrows = " -> ".join(", ".join(sorted(rooms)) for rooms in LEVELS[1:])
    contributing = " ".join((repository / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert f"`{arrows}`" in contributing


def test_no_name_says_nothing() -> None:
    empty = {
        "utils",
        "util",
        "helpers",
        "helper",
        "base",
        "manager",
        "managers",
        "common",
        "misc",
        "handler",
        "handlers",
    }
    found = {str(path) for path in ROOT.rglob("*.py") if set(path.stem.split("_")) & empty}
    assert not found


def test_every_test_file_is_collected(request: pytest.FixtureRequest) -> None:
    """With --doctest-ignore-import-errors, pytest passes over a file whose helper it cannot import."""
    options = request.config.option
    if options.keyword or options.markexpr:
        pytest.skip("only some of the tests were asked for")
    folders = [path for each in request.config.args if (path := Path(each).resolve()).is_dir()]
    there = {path for folder in folders for path in folder.rglob("test_*.py")}
    assert there <= {item.path for item in request.session.items}
