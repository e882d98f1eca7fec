"""What a section of all.py is given, and what it leaves: figures, each beside the range that was expected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from anybatch.files import write_json

Bounds = tuple[float | None, float | None]


class Skipped(Exception):
    """The rest of a section cannot run here; the message says why."""


@dataclass(frozen=True)
class Range:
    """What a figure is expected to be, by card; None is no bound. `needed`: elsewhere it is a fault, on any device."""

    unit: str
    h100: Bounds
    h200: Bounds
    needed: bool = False

    def verdict(self, value: float | None, device: str) -> str:
        """Whether `value` is inside, on a device of that name; cards without a range of their own have none."""
        if value is None:
            return "not measured"
        if not math.isfinite(value):
            return "wrong" if self.needed else "outside"
        if not self.needed and not ("H100" in device or "H200" in device):
            return "no range for this device"
        low, high = self.h200 if "H200" in device else self.h100
        inside = (low is None or low <= value) and (high is None or value <= high)
        return "inside" if inside else "wrong" if self.needed else "outside"


def about(unit: str, h100: Bounds, h200: Bounds | None = None) -> Range:
    """A range that was estimated: what lies outside is a finding."""
    return Range(unit, h100, h200 or h100)


def needed(unit: str, low: float | None, high: float | None) -> Range:
    """A range that holds on every device: what lies outside is a fault."""
    return Range(unit, (low, high), (low, high), needed=True)


@dataclass
class Day:
    """One section's view of the day.

    `tiny`: toy sizes, to see that the program runs; its times mean nothing. `scratch`: a folder of the section's own.
    `paths`: data that were given, by name. `file` is written after every figure.
    """

    device: torch.device
    tiny: bool
    scratch: Path
    file: Path
    expected: Mapping[str, Range]
    paths: Mapping[str, Path | None] = field(default_factory=dict)
    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def figure(self, name: str, value: float) -> None:
        """Keeps a figure; one that the table of sections does not know is a mistake in the section."""
        if name not in self.expected:
            raise KeyError(f"{name!r} is not among the section's expected figures")
        self.values[name] = value
        self._write()

    def none(self, name: str, reason: str) -> None:
        """Says why a figure cannot be had."""
        if name not in self.expected:
            raise KeyError(f"{name!r} is not among the section's expected figures")
        self.reasons[name] = reason
        self._write()

    def note(self, name: str, value: Any) -> None:
        """Keeps what explains a figure and has no range: names of kernels, texts of errors."""
        self.notes[name] = value
        self._write()

    def needs_gpu(self, what: str) -> None:
        """Ends the section here without a GPU."""
        if not self.cuda:
            raise Skipped(f"no GPU: {what}")

    def _write(self) -> None:
        write_json(self.file, {"values": self.values, "reasons": self.reasons, "notes": self.notes})


def described(found: Mapping[str, Any], expected: Mapping[str, Range], device: str, why: str) -> dict[str, Any]:
    """The figures of a section for gpu.json, those that it did not reach, too; `why` it did not."""
    figures = {}
    for name, bounds in expected.items():
        value = found.get("values", {}).get(name)
        figures[name] = {
            "value": value,
            "unit": bounds.unit,
            "expected": {"H100": bounds.h100, "H200": bounds.h200},
            "needed": bounds.needed,
            "verdict": bounds.verdict(value, device),
        }
        if value is None:
            figures[name]["reason"] = found.get("reasons", {}).get(name, why)
    return figures
