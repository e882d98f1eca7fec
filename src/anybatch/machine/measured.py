"""The results of `bench`, as cells and sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = ("step", "ms", "smallest to largest", "× reference", "B/parameter", "GB/s")


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of one set of shapes, a row for each measured contender."""
    for row in found.get("rows", ()):
        if "median_s" not in row:
            continue
        samples, number = row["samples_s"], row["bytes_per_parameter"]
        yield (
            row["name"],
            _ms(row["median_s"]),
            f"{_ms(min(samples))} to {_ms(max(samples))}",
            f"{row['against_reference']:.2f}" if "against_reference" in row else "",
            "" if number is None else f"{number:.0f}{' (counted)' if row['counted'] else ''}",
            "" if number is None else f"{row['gb_per_s']:.0f}",
        )


def title(found: Mapping[str, Any]) -> str:
    """Returns the title: the name and size of the set."""
    return f"{found['name']}: {found['parameters'] / 1e6:.1f}M parameters in {found['tensors']:,} tensors"


def findings(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields sentences: our fastest step against the reference and the fastest peer, and what was not measured."""
    if "why_not" in found:
        yield f"not measured: {found['why_not']}"
        return
    measured = [row for row in found["rows"] if "median_s" in row]
    ours = min((row for row in measured if row["role"] == "ours"), key=_median, default=None)
    others = [row for row in measured if row["role"] in ("reference", "pattern")]
    peer = min((row for row in measured if row["role"] == "peer"), key=_median, default=None)
    if ours is not None:
        shares = [f"{_median(ours) / _median(row):.2f}× {row['name']}" for row in others]
        if peer is not None:
            shares.append(f"{_median(peer) / _median(ours):.1f}× as fast as {peer['name']}")
        yield f"{ours['name']}: {', '.join(shares)}" if shares else f"{ours['name']} alone was measured"
    for row in found["rows"]:
        if "why_not" in row:
            yield f"not measured: {row['name']}: {row['why_not']}"


def conditions(result: Mapping[str, Any]) -> str:
    """Returns the hardware and the conditions, in one line."""
    chosen, place = result["conditions"], result["environment"]
    parts = [
        place["processor"] if chosen["device"] == "cpu" else place["device"],
        f"{place['threads']} {'thread' if place['threads'] == 1 else 'threads'} of {place['cores']} cores",
        f"torch {place['versions']['torch']}",
        f"medians of {chosen['repeats']}",
    ]
    if chosen["busy"]:
        parts.append(f"{chosen['busy']} busy {'neighbor' if chosen['busy'] == 1 else 'neighbors'}")
    if chosen["clip"] is not None:
        parts.append(f"global norm clipped to {chosen['clip']:g}")
    return ", ".join(parts)


def _median(row: Mapping[str, Any]) -> float:
    median: float = row["median_s"]
    return median


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
