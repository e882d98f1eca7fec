"""The counts of a preparation while it runs."""

from dataclasses import dataclass, field
from typing import Any

from anybatch.data.raw import Place
from anybatch.errors import InputError

# A vocabulary that knows less of the text than this does not fit it: checked after this many tokens, or at the end.
_MOSTLY_UNKNOWN = 0.5
JUDGED_AFTER_TOKENS = 1_000_000


@dataclass
class State:
    """The progress of the last pass."""

    place: Place = field(default_factory=Place)
    documents: int = 0
    documents_of_source: int = 0
    by_length: int = 0
    duplicates: int = 0
    tokens: int = 0
    unknown: int = 0
    usable: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(self.tokens, 1)

    def check_known(self) -> None:
        """Raises InputError if the vocabulary does not know most of the text so far."""
        if self.unknown_share > _MOSTLY_UNKNOWN:
            raise InputError(
                f"{self.unknown_share:.0%} of the text's tokens are [UNK]: the vocabulary is of another language, or "
                "its tokenizer.json does not split text into words; leave out --tokenizer to train one, or give one "
                "for this text"
            )

    @staticmethod
    def of(saved: dict[str, Any]) -> "State":
        return State(**{**saved, "place": Place(**saved["place"])})
