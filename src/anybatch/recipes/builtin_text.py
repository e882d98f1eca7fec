"""The default text of the pretraining recipes: text that comes with Python, as a folder of token shards."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from anybatch.data.builtin import python_documents
from anybatch.data.prepare import Kind, prepare

# Bytes have no other size; this is the largest number of characters.
VOCABULARY_SIZES: dict[Kind, int] = {"wordpiece": 2048, "characters": 64, "bytes": 261}
HELD_OUT = 0.1


def prepare_builtin_text(out: Path, tokenizer: Kind = "wordpiece") -> dict[str, Any]:
    """Writes `out` as `anybatch data prepare` does, from the language reference and the library's docstrings."""
    return prepare(_documents, out, tokenizer=tokenizer, vocabulary_size=VOCABULARY_SIZES[tokenizer], held_out=HELD_OUT)


@lru_cache(maxsize=1)
def _documents() -> tuple[str, ...]:
    """Returns a few megabytes, read once for the several passes of `prepare`."""
    return tuple(python_documents())
