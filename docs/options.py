"""Writes docs/options.md, every option of every recipe, from the lines that stand under their fields.

python docs/options.py
"""

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from anybatch.engine import Execution
from anybatch.models.classifier import NetworkSettings
from anybatch.models.gpt import DecoderSettings
from anybatch.recipes import recipe
from anybatch.recipes.options import field_lines

PAGE = Path(__file__).parent / "options.md"
# The part of a recipe, where it stands, and the dataclass that declares its options.
PARTS: tuple[tuple[str, str, type], ...] = (
    ("The optimizer", "optimizer.", recipe.OptimizerSettings),
    ("The reference", "reference.", recipe.ReferenceSettings),
    ("A phase of a run on text", "phases.0.", recipe.TextPhaseSettings),
    ("A phase of a run on images", "phases.0.", recipe.ImagePhaseSettings),
    ("Execution", "engine.", Execution),
    ("Data of pretraining", "data.", recipe.TextSettings),
    ("Data of causal language models", "data.", recipe.CorpusSettings),
    ("Data of questions", "data.", recipe.QuestionSettings),
    ("Data of images", "data.", recipe.ImageSettings),
    ("A BERT encoder", "model.", recipe.PretrainedEncoderSettings),
    ("A GPT-2", "model.", DecoderSettings),
    ("A pretrained model for questions", "model.", recipe.PretrainedSettings),
    ("An image network", "model.", NetworkSettings),
)
HEAD = """# Every option

<!-- Written by `python docs/options.py` from the lines under the fields in the code. -->

`--set NAME=VALUE` sets an option of a recipe, `anybatch recipes RECIPE` prints those of one recipe with their values.
A value is JSON or a word: `--set data.flip=true`, `--set engine.parallel=fsdp`. Options without a default are set by
each recipe.
"""


def default(field: "Field[Any]") -> Any:
    """The default of a dataclass's field; MISSING if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def rows(kind: type, prefix: str) -> list[str]:
    """A row of Markdown for each field."""
    found, lines = [], field_lines(kind)
    for field in fields(kind):
        value = default(field)
        if is_dataclass(value):
            found += rows(type(value), f"{prefix}{field.name}.")
            continue
        shown = "" if value is MISSING else f"`{json.dumps(value)}`"
        found.append(f"| `{prefix}{field.name}` | {shown} | {escaped(lines[field.name])} |")
    return found


def escaped(line: str) -> str:
    """The line as a cell of a table."""
    return line.replace("|", r"\|").replace("<", "&lt;")


def render() -> str:
    """The page."""
    whole = recipe.RecipeSettings.model_fields
    parts = {"optimizer", "reference", "phases", "engine"}
    lines = field_lines(recipe.RecipeSettings)
    own = [
        f"| `{name}` | {'' if field.is_required() else f'`{json.dumps(field.default)}`'} | {escaped(lines[name])} |"
        for name, field in whole.items()
        if name not in parts
    ]
    tables = [("The recipe", own), *((title, rows(kind, prefix)) for title, prefix, kind in PARTS)]
    head = "| option | default | what it does |\n|---|---|---|"
    return HEAD + "".join(f"\n## {title}\n\n{head}\n{chr(10).join(table)}\n" for title, table in tables)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
