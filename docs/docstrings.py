"""How our docstrings are read: `Example:` is a section of code, and a line of Args may explain several arguments."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^Example: *(.*)$", re.MULTILINE)
SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)


class OurDocstrings(Extension):
    """Puts both into the words that Griffe knows."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Of every object that has a docstring."""
        if obj.docstring is not None:
            text = EXAMPLE.sub(lambda found: f"Examples:\n    {found[1]}".rstrip(), obj.docstring.value)
            obj.docstring.value = SEVERAL.sub(
                lambda found: "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", ")), text
            )
