"""What a preparation counts: as it goes, and what it tells at the end."""

from dataclasses import dataclass, field
from typing import Any

from anybatch.data.raw import Place
from anybatch.errors import InputError

# A vocabulary that knows so little of the text is not for it: seen in so many tokens, or at the end.
_MOSTLY_UNKNOWN = 0.5
JUDGED_AFTER_TOKENS = 1_000_000


@dataclass(frozen=True)
class Counts:
    """The size of one part."""

    documents: int
    sentences: int
    tokens: int


@dataclass(frozen=True)
class LeftOut:
    """Documents that are in no part: for their length, or because the same text stood before."""

    by_length: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Summary:
    """What was written; `unknown_share` of its tokens are [UNK], words that the vocabulary does not have."""

    vocabulary_size: int
    unknown_share: float
    train: Counts
    held_out: Counts
    left_out: LeftOut


@dataclass
class State:
    """How far the last pass is."""

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
        """InputError where most of the text so far is unknown to the vocabulary."""
        if self.unknown_share > _MOSTLY_UNKNOWN:
            raise InputError(
                f"{self.unknown_share:.0%} of the text's tokens are [UNK]: the vocabulary is of another language, or "
                "its tokenizer.json does not split text into words; have one trained, or give one for this text"
            )

    @staticmethod
    def of(saved: dict[str, Any]) -> "State":
        return State(**{**saved, "place": Place(**saved["place"])})
