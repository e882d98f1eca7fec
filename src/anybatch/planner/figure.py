"""Time and cost against devices, as a picture."""

from pathlib import Path

from anybatch.errors import InputError
from anybatch.planner.plan import Plan

FORMATS = ("svg", "png", "pdf")


def draw(plan: Plan, path: Path) -> None:
    """Writes the picture of `plan`: hours, and dollars or device-hours, against devices; the choice is marked.

    Raises:
        InputError: a format that is not drawn.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"--plot {path}: the name must end in .{', .'.join(FORMATS)}")
    from matplotlib.figure import Figure

    priced = plan.cluster.price is not None
    # At one number of devices the options are batches.
    by_batch = plan.knee is None and len({option.num_devices for option in plan.options}) == 1
    positions = [option.batch_size if by_batch else option.num_devices for option in plan.options]
    chosen = plan.options.index(plan.chosen)
    hours = [option.total_s / 3600 for option in plan.options]
    costs = [
        option.cost if option.cost is not None else option.num_devices * option.total_s / 3600
        for option in plan.options
    ]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, values, label in zip(
        figure.subplots(1, 2), (hours, costs), ("hours", "US dollars" if priced else "device-hours"), strict=True
    ):
        axes.plot(positions, values, marker="o", color="#1f5fa8")
        axes.plot(positions[chosen], values[chosen], marker="o", markersize=12, color="#d1495b", fillstyle="none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("global batch" if by_batch else f"{plan.cluster.accelerator.name}: devices")
        axes.set_ylabel(label)
        axes.set_xticks(positions, [f"{position:,}" for position in positions], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.suptitle(f"{plan.workload.name} on {plan.cluster.name}; circled: {plan.why.split(':')[0]}", fontsize=10)
    figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
