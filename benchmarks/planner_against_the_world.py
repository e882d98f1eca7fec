"""Holds the planner against published runs: fits its constants on single nodes, predicts the large systems.

    python benchmarks/planner_against_the_world.py DATA [--write docs/planner.md]

DATA holds time_to_train.csv and convergence.csv with MLPerf Training v4.0 figures (docs/planner.md says where from).
Fits the MFUs, the TPUv3 pod's jitter and the knots of the examples' curves, compares each with the constant
that the package ships, and writes the tables between the page's markers.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from anybatch.planner import PUBLISHED, Cluster, Prediction, Workload, find_cluster, predict
from anybatch.planner.cluster import Mfu
from anybatch.planner.examples import Curve
from anybatch.recipes.resnet50 import IMAGENET_EXAMPLES

CLUSTER_OF = {
    "H100-PCIe": "h100-pcie-node",
    "H100-SXM": "h100-node",
    "H200": "h200-node",
    "L40S": "l40s-node",
    "RTX 4090": "rtx4090-box",
    "RX 7900": "rx7900xtx-box",
}
WORKLOAD_OF = {"bert": "published-bert-large-mlperf", "resnet": "published-resnet50-mlperf"}
# You et al. 2020, arXiv 1904.00962: optimizer, batch, TPUv3 chips, minutes.
PAPER = (
    ("published-bert-large", "lamb", 512, 16, 82.8 * 60),
    ("published-bert-large", "adamw", 512, 16, 81.4 * 60),
    ("published-bert-large", "lamb", 1024, 32, 43.2 * 60),
    ("published-bert-large", "lamb", 2048, 64, 21.4 * 60),
    ("published-bert-large", "lamb", 4096, 128, 693.6),
    ("published-bert-large", "lamb", 8192, 256, 390.5),
    ("published-bert-large", "lamb", 16384, 512, 200.0),
    ("published-bert-large", "lamb", 32768, 1024, 101.2),
    ("published-bert-large-mixed", "lamb", 65536, 1024, 76.19),
)
SMALL_PODS = [row for row in PAPER if row[1] == "lamb" and row[3] <= 64]
# NVIDIA DeepLearningExamples, BERT-large, phase 1 at a global batch of 65,536 on 256 A100: sequences a second.
A100_DEVICES, A100_BATCH, A100_RATE = 256, 65_536, 138_294
_WORTH_A_LINE = 0.05
# NVIDIA, MLPerf Training v4.0: BERT on eight H200, sequences a second over the whole run.
H200_RATE = 7_990
KNOTS = {"bert": [256.0, 4608.0, 8448.0, 16384.0], "resnet": [1632.0, 67840.0]}


def fit_curve(batches: list[float], examples: list[float], knots: list[float], source: str) -> Curve:
    """Returns the Curve with points at the batches `knots` and the least squared relative error.

    Args:
        batches, examples: the published values, at least as many as knots.
    """
    # Relative errors: each row is a linear combination of the knots' values, divided by the published value.
    design = np.zeros((len(batches), len(knots)))
    for row, batch in enumerate(batches):
        for column in range(len(knots)):
            unit = tuple((knot, 1.0 if other == column else 0.0) for other, knot in enumerate(knots))
            design[row, column] = Curve(unit, "").at(batch)
    weighted = design / np.asarray(examples)[:, None]
    values, *_ = np.linalg.lstsq(weighted, np.ones(len(batches)), rcond=None)
    return Curve(tuple(zip(knots, map(float, values), strict=True)), source)


@cache
def workload_on(name: str, cluster: str) -> Workload:
    """The published run called `name`, counted once."""
    return PUBLISHED[name](find_cluster(cluster))


@dataclass(frozen=True)
class Row:
    """A published run: what was run on what, and its minutes."""

    label: str
    benchmark: str
    cluster: str
    nodes: int
    devices: int
    batch_size: int
    minutes: float

    def predicted(self, share: float | None = None) -> Prediction:
        cluster = find_cluster(self.cluster)
        workload = workload_on(WORKLOAD_OF[self.benchmark], self.cluster)
        if share is not None:
            cluster = cluster.with_mfu(workload.family, workload.precision, Mfu(share, ""))
        return predict(workload, cluster, self.devices, self.batch_size)

    def log_error(self, share: float | None = None) -> float:
        return math.log(self.predicted(share)["total_s"] / 60 / self.minutes)


def read_rows(folder: Path) -> list[Row]:
    """The runs in `folder` on accelerators that the planner knows."""
    rows = []
    for line in _lines(folder / "time_to_train.csv"):
        cluster = next((name for part, name in CLUSTER_OF.items() if part in line["accelerator"]), None)
        if cluster is not None:
            rows.append(
                Row(
                    f"{line['submitter']} {line['system'][:32]}",
                    line["benchmark"],
                    cluster,
                    int(line["nodes"]),
                    int(line["accelerators"]),
                    int(line["global_batch_size"]),
                    float(line["minutes"]),
                )
            )
    return rows


def fitted_share(rows: Sequence[Row]) -> float:
    """The share with a median log error of zero."""
    low, high = 0.01, 0.99
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if median(row.log_error(middle) for row in rows) > 0 else (low, middle)
    return high


def shipped_mfu(benchmark: str, name: str) -> tuple[str, float]:
    """(precision, MFU) that the package plans the benchmark's runs with."""
    cluster = find_cluster(name)
    workload = workload_on(WORKLOAD_OF[benchmark], name)
    return workload.precision, cluster.mfu_of(workload.family, workload.precision).share


def paper_cluster(share: float | None = None, jitter: float | None = None) -> Cluster:
    cluster = find_cluster("tpu-v3-pod")
    if share is not None and jitter is not None:
        cluster = replace(cluster.with_mfu("transformer", "bf16", Mfu(share, "")), jitter=jitter)
    return cluster


def paper_minutes(row: tuple[str, str, int, int, float], cluster: Cluster) -> float:
    name, optimizer, batch_size, devices, _ = row
    workload = workload_on(name, "tpu-v3-pod").with_optimizer(optimizer)
    return float(predict(workload, cluster, devices, batch_size)["total_s"]) / 60


def fitted_pod() -> tuple[float, float]:
    """(MFU, jitter) with the least squared log error on the rows of up to 64 chips, on a grid."""
    grid = [(0.3 + 0.005 * i, 0.01 * j) for i in range(20) for j in range(16)]
    return min(
        grid,
        key=lambda pair: sum(math.log(paper_minutes(row, paper_cluster(*pair)) / row[4]) ** 2 for row in SMALL_PODS),
    )


def read_convergence(folder: Path, benchmark: str) -> tuple[list[float], list[float]]:
    """(batches, examples), ImageNet's epochs turned into images."""
    lines = [line for line in _lines(folder / "convergence.csv") if line["benchmark"] == benchmark]
    scale = IMAGENET_EXAMPLES if benchmark == "resnet" else 1
    return [float(line["global_batch_size"]) for line in lines], [float(line["mean"]) * scale for line in lines]


def tables(folder: Path) -> Iterator[str]:
    """The page's tables, line by line."""
    rows = read_rows(folder)
    groups = sorted({(row.benchmark, row.cluster) for row in rows})
    single = {group: [r for r in rows if (r.benchmark, r.cluster) == group and r.nodes == 1] for group in groups}
    yield "### Constants fitted, and those that the package ships"
    yield ""
    yield "| benchmark | cluster | precision | single-node rows | fitted MFU | shipped |"
    yield "|---|---|---|---|---|---|"
    for benchmark, cluster in groups:
        found = single[benchmark, cluster]
        precision, shipped = shipped_mfu(benchmark, cluster)
        yield f"| {benchmark} | {cluster} | {precision} | {len(found)} | {fitted_share(found):.4f} | {shipped:.4f} |"
    examples = workload_on(WORKLOAD_OF["bert"], "h200-node").examples.at(768)
    anchor = Row("NVIDIA", "bert", "h200-node", 1, 8, 768, examples / H200_RATE / 60)
    precision, shipped = shipped_mfu("bert", "h200-node")
    fitted = fitted_share([anchor])
    yield f"| bert | h200-node | {precision} | its {H200_RATE:,} sequences/s | {fitted:.4f} | {shipped:.4f} |"
    share, jitter = fitted_pod()
    pod = paper_cluster()
    yield (
        f"| the paper | tpu-v3-pod | bf16 | {len(SMALL_PODS)} of up to 64 chips | {share:.4f}, jitter {jitter:.2f} | "
        f"{pod.mfu['transformer'].share:.4f}, jitter {pod.jitter:.2f} |"
    )
    yield ""
    yield "### The paper's table"
    yield ""
    yield from _table(
        (
            (
                f"{row[0]}, {row[1]}, batch {row[2]:,}, {row[3]:,} chips",
                "fit" if row in SMALL_PODS else "test",
                row[4],
                paper_minutes(row, pod),
            )
            for row in PAPER
        ),
        "minutes",
    )
    yield ""
    yield "### Large systems, which no constant was fitted to"
    yield ""
    yield from _table(
        [
            *(
                (f"{r.benchmark}, {r.label}, {r.devices:,} devices, batch {r.batch_size:,}", "test", r.minutes, _min(r))
                for r in rows
                if r.nodes > 1
            ),
        ],
        "minutes",
    )
    yield ""
    a100 = find_cluster("a100-node")
    mixed = replace(workload_on("published-bert-large-mixed", "a100-node"), gradient_bytes=2)
    phase = predict(mixed, a100, A100_DEVICES, A100_BATCH)["phases"][0]
    yield from _table(
        [(f"BERT-large, sequence 128, {A100_DEVICES} A100", "test", A100_RATE, A100_BATCH / phase["step_s"])],
        "sequences/s",
    )
    yield ""
    yield "### Single nodes"
    yield ""
    errors = {row: math.expm1(row.log_error()) for found in single.values() for row in found}
    sizes = sorted(map(abs, errors.values()))
    yield (
        f"One share a benchmark and cluster stands for all of its systems; {len(sizes)} rows, median error "
        f"{median(sizes):.1%}, largest {sizes[-1]:.1%}. Those off by more than {_WORTH_A_LINE:.0%}:"
    )
    yield ""
    yield from _table(
        (
            (f"{r.benchmark}, {r.label}, {r.devices} devices, batch {r.batch_size:,}", "fit", r.minutes, _min(r))
            for r, error in errors.items()
            if abs(error) > _WORTH_A_LINE
        ),
        "minutes",
    )
    yield ""
    yield "### Examples to the target"
    yield ""
    yield "Left out: the curve fitted to all other batches, so the error is that of a batch that is not in the data."
    for benchmark in KNOTS:
        yield ""
        yield from _examples_table(folder, benchmark)


def _examples_table(folder: Path, benchmark: str) -> Iterator[str]:
    batches, examples = read_convergence(folder, benchmark)
    knots = KNOTS[benchmark]
    fitted = fit_curve(batches, examples, knots, "")
    shipped = workload_on(WORKLOAD_OF[benchmark], "h100-node").examples
    assert isinstance(shipped, Curve)
    points = ", ".join(f"{batch:,.0f}: {count:.4g}" for batch, count in fitted.points)
    stored = ", ".join(f"{batch:,.0f}: {count:.4g}" for batch, count in shipped.points)
    yield f"{benchmark}: knots fitted {points}; shipped {stored}."
    yield ""
    yield f"| {benchmark}, batch | error of the shipped curve | error where this batch is left out |"
    yield "|---|---|---|"
    for k, (batch, count) in enumerate(zip(batches, examples, strict=True)):
        # Without its last batch a curve would have to be continued, not filled in.
        outer = batch in (min(batches), max(batches))
        left_out = fit_curve(batches[:k] + batches[k + 1 :], examples[:k] + examples[k + 1 :], knots, "").at(batch)
        shown = "(end)" if outer else f"{left_out / count - 1:+.1%}"
        yield f"| {batch:,.0f} | {shipped.at(batch) / count - 1:+.1%} | {shown} |"


def _table(
    entries: Iterator[tuple[str, str, float, float]] | Sequence[tuple[str, str, float, float]], unit: str
) -> Iterator[str]:
    yield f"| run | used to | published, {unit} | predicted | error |"
    yield "|---|---|---|---|---|"
    for label, use, published, predicted in entries:
        yield f"| {label} | {use} | {published:,.4g} | {predicted:,.4g} | {predicted / published - 1:+.1%} |"


def _min(row: Row) -> float:
    return row.predicted()["total_s"] / 60


def _lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    text = "\n".join(tables(arguments.data))
    if arguments.write is None:
        show(text)
        return
    page = arguments.write.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    arguments.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
