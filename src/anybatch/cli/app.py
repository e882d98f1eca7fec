"""Shared by all commands: the applications that they register with, common options, and printing of results."""

import json
from collections.abc import Iterator, Mapping, Set
from importlib.metadata import version
from typing import Annotated, Any

import typer

from anybatch.files import named_errors

app = typer.Typer(
    name="anybatch",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Batch size is a hardware decision, not a hyperparameter.

    \b
    A first hour:
      anybatch doctor                                  what is installed, and what is missing
      anybatch demo                                    one recipe at four batch sizes, in minutes
      anybatch data prepare texts --out shards         your own text
      anybatch train bert-tiny --set data.path=shards --dry-run
      anybatch report runs -o report.html
      anybatch plan bert-large-paper --cluster h100-node --devices 8
    """,
)
_asked: list[str] = []


def command_of() -> str | None:
    """Returns the command that the user gave; None before it is known."""
    return _asked[-1] if _asked else None


def _show_version(asked: bool) -> None:
    if asked:
        print(version("anybatch"))
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _asked.append(context.invoked_subcommand or "")


data_app = typer.Typer(
    help="""Turn raw text into token shards, and inspect them.

    \b
    Examples:
      anybatch data prepare texts --out shards
      anybatch data inspect shards
    """
)
app.add_typer(data_app, name="data")


def complete_recipe(incomplete: str) -> list[str]:
    """Returns the recipe names that begin with `incomplete`, for a shell's completion."""
    from anybatch.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: --set optimizer.lr=2e-3")
]
LogBatchSizes = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-size", metavar="FOLDER=N", help="The global batch of a log that does not record it; may be repeated."
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Examples a step; scales learning rate, warm-up, steps.")]


def given_options(context: typer.Context, but: Set[str]) -> list[str]:
    """The options that a command was given, as they are typed again, except those called `but`."""
    given = []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        if name not in but and value != parameter.get_default(context):
            given.append(parameter.opts[0] if value is True else f"{parameter.opts[0]}={value}")
    return given


def show(text: str) -> None:
    """Prints the result of a command; an error names standard output."""
    with named_errors("standard output"):
        print(text, flush=True)


def print_values(values: Mapping[str, Any], as_json: bool) -> None:
    """Prints JSON, or lines of name and value, nested names joined."""
    if as_json:
        show(json.dumps(values, indent=1, ensure_ascii=False))
        return
    rows = dict(_flat(values))
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        show(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, value
