"""What the documentation shows, works: Python runs, links lead somewhere, commands are understood."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from support.documented import NAMES, PAGES, ROOT, anchors, commands, links, python_blocks
from torch.distributed.run import get_args_parser as torchrun_parser

from anybatch.cli import app
from anybatch.planner import PUBLISHED, find_cluster
from anybatch.recipes import RECIPES, change, find_recipe, with_batch_size

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize(
    "name",
    # The tutorial, which trains, is run by test_tutorial.py.
    [name for name, text in zip(NAMES, TEXTS.values(), strict=True) if "```python" in text and "tutorial" not in name],
)
def test_every_block_of_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[ROOT / name]
    found = list(python_blocks(text))
    assert len(found) == text.count("```python")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    # The model is the reader's.
    names = {"model": torch.nn.Linear(8, 4)}
    for line, code in found:
        # Blank lines before the code, so that an error names its line on the page.
        exec(compile("\n" * line + code, name, "exec"), names)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for target in links(TEXTS[page]):
        if "://" in target or target.startswith("mailto:"):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name}: {target}"
        assert found.is_relative_to(ROOT), f"{name}: {target} is outside of the repository"
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{name}: {target}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])  # which tells of the past, too
def test_every_command_is_understood(name: str) -> None:
    for words in commands(TEXTS[ROOT / name]):
        check(words, name)


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(typer.main.get_command(app).commands))])
def test_the_examples_in_the_help_are_understood(command: list[str]) -> None:
    command = command if command != ["data"] else ["data", "prepare"]
    lines = [line.strip() for line in help_of(command).replace("\\\n", "").splitlines()]
    examples = [line for line in lines if line.startswith("anybatch ")]
    assert examples, f"{command} has no example"
    for line in examples:
        check(re.split(r" {3,}(?!-)", line)[0].split(), f"help of {command}")


def help_of(command: list[str]) -> str:
    """What --help prints."""
    root = typer.main.get_command(app)
    context = root.make_context("anybatch", ["doctor"], resilient_parsing=True)
    for word in command:
        root = root.commands[word]
        context = root.make_context(word, ["-"], parent=context, resilient_parsing=True)
    return str(root.get_help(context))


def check(words: list[str], where: str) -> None:
    """Fails where the first word's program would not take the others; nothing is started."""
    program, rest = words[0], words[1:]
    if program == "anybatch":
        understand(rest, where)
    elif program == "torchrun":
        read = torchrun_parser().parse_args(["1" if word.startswith("$") else word for word in rest])
        if read.module:
            assert read.training_script == "anybatch", where
            understand(read.training_script_args, where)
        else:
            assert (ROOT / read.training_script).is_file(), f"{where}: {words}"
    elif program == "python":
        assert rest[:2] == ["-m", "anybatch"] or (ROOT / rest[0]).is_file(), f"{where}: {words}"
    elif program == "sbatch":
        assert any((ROOT / word).is_file() for word in rest), f"{where}: {words}"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all("=" in word or f"\n{word}:" in makefile for word in rest), f"{where}: {words}"
    elif program == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        for word in rest:
            if "[" in word:
                assert set(word.split("[")[1].rstrip("]").split(",")) <= known.keys(), f"{where}: {words}"


def understand(arguments: list[str], where: str) -> None:
    """Parses as the command line does; recipes and fields must exist, files need not."""
    command = typer.main.get_command(app)
    context, rest = None, list(arguments)
    path: list[str] = []
    try:
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            context = command.make_context(
                path[-1] if path else "anybatch", [rest[0]], parent=context, resilient_parsing=True
            )
            path.append(rest.pop(0))
            command = command.commands[path[-1]]
        # `anybatch train RECIPE --dry-run` in a sentence names a command, and says nothing of its values.
        if not rest and not hasattr(command, "commands"):
            return
        values = command.make_context(path[-1] if path else "anybatch", rest, parent=context).params
    except (typer.TyperException, KeyError) as error:
        pytest.fail(f"{where}: anybatch {' '.join(arguments)}: {getattr(error, 'message', error)}")
    except typer.Exit:  # --help, --version
        return
    recipe = values.get("recipe") or values.get("name")
    if recipe in RECIPES:
        fields = [each for each in values.get("assignments") or [] if not each.endswith("=")]
        chosen = change(find_recipe(recipe), fields)
        if path == ["train"] and values.get("batch_size"):
            with_batch_size(chosen, values["batch_size"])
    # A run that goes on knows its recipe.
    elif recipe not in ("1", None):
        # What has a slash is a folder of logs.
        assert path != ["train"], f"{where}: no recipe is called {recipe}"
        assert path != ["advise"] or "/" in recipe, f"{where}: no recipe is called {recipe}"
        assert path != ["plan"] or recipe in PUBLISHED, f"{where}: nothing to plan is called {recipe}"
    if path == ["plan"] and values["cluster"] not in ("1", "this-machine"):
        find_cluster(values["cluster"])


def test_what_the_pages_show_is_found() -> None:
    """The readers above are not blind: this many at least are on the pages."""
    assert sum(len(list(commands(text))) for text in TEXTS.values()) > 80
    assert sum(len(links(text)) for text in TEXTS.values()) > 80


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    assert (tmp_path / "site" / "api" / "index.html").stat().st_size > 100_000
    # Nothing on a page is fetched from elsewhere.
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in html
    assert 'rel="stylesheet" href="http' not in html


@pytest.mark.slow
def test_the_figures_are_those_that_the_code_draws(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "figures.py"), str(tmp_path)], check=True, timeout=250)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 9
    for figure in drawn:
        there = (ROOT / "docs" / "images" / figure.name).read_text(encoding="utf-8")
        words = [re.findall(r"<text[^>]*>([^<]*)</text>", text) for text in (figure.read_text("utf-8"), there)]
        assert words[0] == words[1]
        assert words[0]
