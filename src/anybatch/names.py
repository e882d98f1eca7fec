"""Names that people give and read: the nearest known one, and an optimizer's usual spelling."""

import difflib
from collections.abc import Iterable

_OPTIMIZERS = {"lamb": "LAMB", "lars": "LARS", "adamw": "AdamW", "sgd": "SGD"}


def nearest(name: str, known: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    """Returns the three names most like `name`, separated by commas; if none is like it, `otherwise`, or all.

    Example:
        >>> nearest("bert-tny", ["bert-tiny", "gpt2-small"]), nearest("x", ["bert-tiny", "gpt2-small"])
        ('bert-tiny', 'bert-tiny, gpt2-small')
    """
    known = list(known)
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(otherwise) or known)


def optimizer_title(name: str) -> str:
    """Returns the usual spelling: 'adamw' -> 'AdamW', 'momentum' -> 'Momentum'."""
    return _OPTIMIZERS.get(name.lower(), name.capitalize() if name.islower() else name)
