"""`anybatch demo` on a few documents, a small model and two batches: seconds in the place of minutes, the same command.

Its workers import this file, too, and so see the same changes.
"""

from functools import partial
from itertools import islice
from pathlib import Path

from anybatch.__main__ import start
from anybatch.data.builtin import python_documents
from anybatch.data.counts import Summary
from anybatch.data.prepare import prepare
from anybatch.recipes import Recipe, change, find_recipe
from anybatch.study import demo

QUESTIONS = ["reference.num_examples=64", "reference.num_epochs=null", "engine.num_evals=1"]
PRETRAINING = ["reference.num_examples=1024", "model.hidden_size=32", "data.num_held_out=64", "engine.num_evals=2"]


def small_text(out: Path) -> Summary:
    return prepare(lambda: islice(python_documents(), 60), out, vocabulary_size=512, held_out=0.1)


def small_recipe(name: str) -> Recipe:
    return change(find_recipe(name), QUESTIONS if name == "squad-demo" else PRETRAINING)


demo.prepare_builtin_text = small_text
demo.find_recipe = small_recipe
demo.cells = partial(demo.cells, factors=(1, 4))

if __name__ == "__main__":
    start()
