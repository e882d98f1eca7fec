"""The command `anybatch plan`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from anybatch.errors import InputError
from anybatch.files import read_object
from anybatch.names import nearest
from anybatch.planner.calibration import calibrate
from anybatch.planner.cluster import Cluster
from anybatch.planner.clusters import find_cluster
from anybatch.planner.examples import Law
from anybatch.planner.plan import make_plan, parse_duration
from anybatch.planner.prediction import Prediction
from anybatch.planner.published import PUBLISHED
from anybatch.planner.workload import Workload, with_critical_batch, workload_of
from anybatch.recipes import RECIPES, change, find_recipe
from anybatch.recipes.change import as_another_optimizer, as_options

FORMATS = ("svg", "png", "pdf")


def plan(
    name: str,
    cluster_name: str,
    *,
    devices: int | None = None,
    batch_size: int | None = None,
    deadline: str | None = None,
    budget: float | None = None,
    price: float | None = None,
    optimizer: str | None = None,
    critical_batch: float | None = None,
    advice: Path | None = None,
    calibration_run: Path | None = None,
    plot: Path | None = None,
    assignments: list[str] | None = None,
) -> dict[str, Any]:
    """Returns the plan, as JSON types; writes the picture to `plot`."""
    cluster = find_cluster(cluster_name)
    settings = tuple(assignments or [])
    if optimizer is not None and name in RECIPES:
        settings = (*settings, *as_another_optimizer(optimizer))
    workload = find_workload(name, settings, cluster)
    if optimizer is not None and workload.recipe is None:
        workload = workload.with_optimizer(optimizer)
    if advice is not None:
        workload = with_critical_batch(workload, *_critical_batch(advice))
    if critical_batch is not None:
        workload = with_critical_batch(workload, critical_batch)
    if price is not None:
        if not price >= 0:
            raise InputError(f"--price {price}: must be at least 0")
        cluster = replace(cluster, price=price, price_source="given")
    if budget is not None and not budget > 0:
        raise InputError(f"--budget {budget:g}: must be above 0")
    calibration = None
    if calibration_run is not None:
        cluster, calibration = calibrate(cluster, calibration_run)
    made = make_plan(
        workload,
        cluster,
        num_devices=devices,
        batch_size=batch_size,
        deadline_s=None if deadline is None else parse_duration(deadline),
        budget=budget,
    )
    mfu = cluster.mfu_of(workload.family, workload.precision)
    found = {
        "workload": workload.name,
        "optimizer": workload.optimizer,
        "cluster": cluster.name,
        "accelerator": cluster.accelerator.name,
        "precision": workload.precision,
        "mfu": mfu.share,
        "mfu_source": mfu.source,
        "supposed": list(workload.supposed),
        "price": cluster.price,
        "price_source": cluster.price_source,
        "title": cluster.title,
        "peak_flops": cluster.accelerator.peak_flops[workload.precision],
        "is_published": workload.recipe is None,
        "calibration": calibration,
        **made,
        "commands": commands(workload, cluster, made["chosen"], settings),
    }
    if plot is not None:
        draw(found, plot)
    return found


def find_workload(name: str, assignments: tuple[str, ...], cluster: Cluster) -> Workload:
    """Finds the published run or the recipe called `name`, with fields set as by `anybatch train --set`.

    Raises:
        InputError: no published run and no recipe has this name; or fields of a published run are set.
    """
    if name in PUBLISHED:
        if assignments:
            raise InputError(f"--set {assignments[0]}: {name} is a published run, not a recipe; its fields are fixed")
        return PUBLISHED[name](cluster)
    if name not in RECIPES:
        near = nearest(name, [*RECIPES, *PUBLISHED])
        raise InputError(f"neither a recipe nor a published run is called {name!r}; nearest: {near}")
    return workload_of(change(find_recipe(name), assignments), cluster)


def _critical_batch(path: Path) -> tuple[float, int]:
    """Returns B_crit and the batch whose examples are known, as `anybatch advise --json` writes them."""
    found = read_object(path)
    value, reference = found.get("critical_batch"), found.get("reference_batch_size")
    if not isinstance(value, int | float) or not isinstance(reference, int):
        raise InputError(
            f"{path}: it has no critical_batch and reference_batch_size; write it with anybatch advise --json"
        )
    return float(value), reference


def commands(workload: Workload, cluster: Cluster, chosen: Prediction, settings: tuple[str, ...]) -> list[str]:
    """Returns the commands for the machine, or for each of several, that start the planned run.

    Returns none for a published run, and for hardware on which PyTorch starts no processes.

    Args:
        settings: FIELD=VALUE, with which the recipe was planned.
    """
    if workload.recipe is None or cluster.name.startswith("tpu"):
        return []
    phases, batch_size, devices = chosen["phases"], chosen["batch_size"], chosen["devices"]
    # torch computes fp32 convolutions in TF32.
    wanted = ["engine.precision=" + workload.precision.replace("tf32", "fp32")]
    if workload.group_size is None:
        # One micro-batch size serves all phases: the one that fits in each.
        wanted.append(f"engine.micro_batch_size={min(phase['micro_batch_size'] for phase in phases)}")
    if any("FSDP" in phase["layout"] for phase in phases):
        wanted += ["engine.parallel=fsdp"] + ["engine.fsdp.param_dtype=bf16"] * (workload.precision == "bf16")
    if any("checkpointing" in phase["layout"] for phase in phases):
        wanted.append("engine.activation_checkpointing=true")
    if isinstance(workload.examples, Law):
        # If a run's examples grow with its batch, the command must set them.
        wanted.append(f"reference.num_examples={round(chosen['num_examples'])}")
    given = {setting.partition("=")[0] for setting in wanted}
    kept = [setting for setting in settings if setting.partition("=")[0].strip() not in given]
    name = f"runs/{workload.recipe}-b{batch_size}"
    train = f"train {workload.recipe} --batch-size {batch_size}{as_options([*wanted, *kept])} --run {name}"
    nodes = cluster.nodes(devices)
    if nodes == 1:
        return [f"anybatch {train}" + (f" --nproc {devices}" if devices > 1 else "")]
    return [
        f"torchrun --nnodes={nodes} --nproc-per-node={cluster.devices_a_node} --node-rank=$NODE_RANK "
        f"--master-addr=$MASTER_ADDR --master-port=29500 -m -- anybatch {train}"
    ]


def draw(found: dict[str, Any], path: Path) -> None:
    """Writes the picture of a plan: hours, and dollars or device-hours, against devices; the choice is marked.

    Raises:
        InputError: an unknown format.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"--plot {path}: the name must end in .{', .'.join(FORMATS)}")
    from matplotlib.figure import Figure

    options, priced = found["options"], found["price"] is not None
    # At one number of devices, the options are batches.
    by_batch = found["diminishing_returns"] is None and len({option["devices"] for option in options}) == 1
    positions = [option["batch_size" if by_batch else "devices"] for option in options]
    chosen = next(number for number, option in enumerate(options) if option["is_chosen"])
    hours = [option["total_s"] / 3600 for option in options]
    costs = [option["cost" if priced else "device_hours"] for option in options]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, values, label in zip(
        figure.subplots(1, 2), (hours, costs), ("hours", "US dollars" if priced else "device-hours"), strict=True
    ):
        axes.plot(positions, values, marker="o", color="#1f5fa8")
        axes.plot(positions[chosen], values[chosen], marker="o", markersize=12, color="#d1495b", fillstyle="none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("global batch" if by_batch else f"{found['accelerator']}: devices")
        axes.set_ylabel(label)
        axes.set_xticks(positions, [f"{position:,}" for position in positions], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"{found['workload']} on {found['cluster']}; circled: {found['chosen']['why'].split(':')[0]}", fontsize=10
    )
    figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
