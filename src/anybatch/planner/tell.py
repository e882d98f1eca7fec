"""A plan in words, as a table and as JSON."""

from typing import Any

from anybatch.planner.calibrate import Calibration
from anybatch.planner.examples import Law
from anybatch.planner.launch import commands
from anybatch.planner.plan import Plan, spoken
from anybatch.planner.prediction import Prediction
from anybatch.recipes.preview import aligned


def to_json(plan: Plan, calibration: Calibration | None = None, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything a plan holds; times in seconds, cost in US dollars."""
    workload, cluster = plan.workload, plan.cluster
    achieved = cluster.accelerator.achieved[workload.family]
    return {
        "workload": workload.name,
        "optimizer": workload.optimizer,
        "cluster": cluster.name,
        "accelerator": cluster.accelerator.name,
        "achieved_share": achieved.share,
        "achieved_source": achieved.source,
        "price": cluster.price,
        "calibration": None if calibration is None else vars(calibration),
        "chosen": {"why": plan.why, **_option(plan, plan.chosen)},
        "diminishing_returns": None
        if plan.knee is None
        else {"devices": plan.knee.num_devices, "batch_size": plan.knee.batch_size},
        "options": [_option(plan, option) for option in plan.options],
        "commands": commands(workload, cluster, plan.chosen, _settings(plan, settings)),
    }


def _option(plan: Plan, option: Prediction) -> dict[str, Any]:
    epoch = plan.workload.epoch_examples
    return {
        "devices": option.num_devices,
        "batch_size": option.batch_size,
        "num_examples": option.num_examples,
        "epochs": None if epoch is None else option.num_examples / epoch,
        "num_steps": option.num_steps,
        "total_s": option.total_s,
        "start_s": option.start_s,
        "training_s": option.training_s,
        "evaluation_s": option.evaluation_s,
        "checkpoint_s": option.checkpoint_s,
        "cost": option.cost,
        "device_hours": option.num_devices * option.total_s / 3600,
        "energy_kwh": option.energy_kwh,
        "phases": [
            {
                "title": phase.title,
                "batch_size": phase.batch_size,
                "num_steps": phase.num_steps,
                "layout": phase.layout.title(option.num_devices),
                "micro_batch_size": phase.layout.micro_batch_size,
                "memory_bytes": phase.memory_bytes,
                "step_s": phase.step.total,
                "step_parts_s": vars(phase.step),
            }
            for phase in option.phases
        ],
    }


def to_text(plan: Plan, calibration: Calibration | None = None, settings: tuple[str, ...] = ()) -> str:
    """The table, the choice, where its time goes, and how to start it."""
    workload, cluster, chosen = plan.workload, plan.cluster, plan.chosen
    achieved = cluster.accelerator.achieved[workload.family]
    devices = "1 device" if chosen.num_devices == 1 else f"{chosen.num_devices} devices"
    lines = [
        f"{workload.name} ({workload.optimizer}, {workload.precision}) on {cluster.name}: {cluster.title}",
        f"{achieved.share:.1%} of the peak, {achieved.source}"
        + (f"; before: {calibration.before:.1%}" if calibration else ""),
        "",
        *_table(plan),
        "",
        f"* {plan.why}: {devices}, batch {chosen.batch_size:,}, {spoken(chosen.total_s)}",
    ]
    for phase in chosen.phases:
        parts = ", ".join(
            f"{name.replace('_', '-')} {1e3 * value:.3g}" for name, value in vars(phase.step).items() if value > 0
        )
        lines.append(
            f"  {phase.title}: {phase.num_steps:,} steps of {phase.batch_size:,}, {1e3 * phase.step.total:.4g} ms each "
            f"({parts}); {phase.layout.title(chosen.num_devices)}, micro-batch {phase.layout.micro_batch_size}, "
            f"{phase.memory_bytes / 1e9:.1f} GB a device"
        )
    lines.append(
        f"  besides: start {spoken(chosen.start_s)}, evaluation {spoken(chosen.evaluation_s)}, checkpoints "
        f"{spoken(chosen.checkpoint_s)}"
    )
    if cluster.price is not None:
        lines.append(f"  price: {cluster.price:g} US dollars a device an hour; {cluster.price_source}")
    started = commands(workload, cluster, chosen, _settings(plan, settings))
    if workload.recipe is None:
        lines += ["", f"{workload.name} is a published run, which has no command here; a plan of a recipe has one"]
    if started:
        lines += [
            "",
            "on every node:" if "$NODE_RANK" in started[0] else "start it:",
            *(f"  {line}" for line in started),
        ]
        if not any(setting.startswith("data.path=") for setting in settings):
            lines.append("  with --set data.path=FOLDER for data of your own")
    return "\n".join(lines)


def _table(plan: Plan) -> list[str]:
    header = ["", "devices", "batch", "steps", "examples", "time", "device-hours", "US$", "kWh", "layout"]
    rows = [header]
    for option in plan.options:
        rows.append(
            [
                "*" if option is plan.chosen else "",
                f"{option.num_devices:,}",
                f"{option.batch_size:,}",
                f"{option.num_steps:,}",
                f"{option.num_examples:.4g}",
                spoken(option.total_s),
                f"{option.num_devices * option.total_s / 3600:,.1f}",
                "-" if option.cost is None else f"{option.cost:,.2f}",
                "-" if option.energy_kwh is None else f"{option.energy_kwh:,.1f}",
                option.phases[0].layout.title(option.num_devices),
            ]
        )
    # A column that says nothing is left out.
    kept = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    return aligned(list(zip(*kept, strict=True)))


def _settings(plan: Plan, settings: tuple[str, ...]) -> tuple[str, ...]:
    """A run whose examples grow with its batch has to be told."""
    if isinstance(plan.workload.examples, Law):
        return (*settings, f"reference.num_examples={round(plan.chosen.num_examples)}")
    return settings
