"""`anybatch demo` on a few documents, a small model and two batches: seconds in the place of minutes, the same command.

Its workers import this file, too, and so see the same changes.
"""

from anybatch.process import leave_at_once, listen

if __name__ == "__main__":
    # As the command line does, before anything that takes long is imported.
    listen(leave_at_once)

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from anybatch.__main__ import start
from anybatch.data.builtin import python_documents
from anybatch.data.prepare import Kind, prepare
from anybatch.recipes import Recipe, change, find_recipe
from anybatch.study import demo
from anybatch.study.declaration import Study

SETTINGS = ["reference.num_examples=64", "model.hidden_size=32", "data.num_held_out=64", "engine.num_evals=2"]
whole = demo.declared


def small_text(out: Path, tokenizer: Kind) -> dict[str, Any]:
    return prepare(lambda: islice(python_documents(), 60), out, tokenizer=tokenizer, vocabulary_size=64, held_out=0.1)


def small_recipe(name: str) -> Recipe:
    return change(find_recipe(name), SETTINGS)


def small_study(seeds: Sequence[int] = (0,)) -> Study:
    return replace(whole(seeds), batch_sizes=(2, 8))


demo.prepare_builtin_text = small_text
demo.find_recipe = small_recipe
demo.declared = small_study

if __name__ == "__main__":
    start()
