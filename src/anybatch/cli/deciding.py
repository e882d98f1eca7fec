"""Commands that help to decide: study, advise, plan."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from anybatch.cli.app import AsJson, Assignments, BatchSize, LogBatchSizes, app, complete_recipe, print_values, show
from anybatch.errors import InputError
from anybatch.numbers import null_for_nonfinite

T = TypeVar("T")

POINTS, FACTORS, TOLERANCE = "0.05,0.2,0.5", "1,2,4,8,16", 0.01


def _complete_study(incomplete: str) -> list[str]:
    from anybatch.study.catalogue import STUDIES

    return [name for name in ("theory", *STUDIES) if name.startswith(incomplete)] + complete_recipe(incomplete)


def _complete_planned(incomplete: str) -> list[str]:
    from anybatch.planner import PUBLISHED

    return [name for name in PUBLISHED if name.startswith(incomplete)] + complete_recipe(incomplete)


def _complete_cluster(incomplete: str) -> list[str]:
    from anybatch.planner.clusters import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A shipped study, 'theory', a FILE.py, or a recipe.", autocompletion=_complete_study
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder for runs, table and page; default studies/STUDY.")
    ] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="A database that workers share.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that this command starts.")] = 1,
    optimizers: Annotated[
        list[str] | None, typer.Option("--optimizer", help="An optimizer to compare on a recipe; repeat it.")
    ] = None,
    ranges: Annotated[
        list[str] | None, typer.Option("--range", metavar="[OPTIMIZER:]FIELD=LOW:HIGH", help="A field to tune.")
    ] = None,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="A batch to compare at; repeat it.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="untuned, grid or quasirandom.")] = None,
    trials: Annotated[int | None, typer.Option(help="Tuning trials of a quasirandom search.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Reported runs of each optimizer at each batch.")] = None,
    metric: Annotated[str | None, typer.Option(help="loss, or the name of an accuracy.")] = None,
    target: Annotated[float | None, typer.Option(help="Count the steps until the metric reaches this.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the theory study.")] = 0,
    heartbeat: Annotated[int, typer.Option(min=1, help="Seconds between a worker's heartbeats.")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run.")] = False,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Compare optimizers over batch sizes at equal tuning budgets; or measure the theory.

    To add a worker, run the same command anywhere that reaches the storage: workers share the trials.

    \b
    Examples:
      anybatch study theory
      anybatch study demo --workers 2
      anybatch study mine.py --storage postgresql://host/db
      anybatch study bert-tiny --optimizer lamb --optimizer adamw \\
          --range optimizer.lr=1e-3:1e-1 --batch-size 64 --dry-run
    """
    from anybatch.cli.advice_text import study_text
    from anybatch.engine import progress_display
    from anybatch.report import write_study
    from anybatch.report.theory import write_theory
    from anybatch.study.command import declared, finish_study, plan
    from anybatch.study.theory.experiments import run_theory

    folder = out or Path("studies") / Path(name).stem
    with progress_display() as progress:
        if name == "theory" and dry_run:
            show("theory: 30 measurements on constructed functions, one thread, about 90 s; no trials and no data")
            return
        if name == "theory":
            found = run_theory(folder, seed, progress)
            written = write_theory(found["measured"], found["findings"], folder)
        else:
            make = declared(
                name, optimizers=optimizers, ranges=ranges, batch_sizes=batch_sizes, protocol=protocol,
                num_trials=trials, num_seeds=seeds, metric=metric, target=target, assignments=assignments,
            )  # fmt: skip
            if dry_run:
                planned = plan(make())
                print_values(planned, True) if as_json else show(study_text(planned))
                return
            compared, found = finish_study(
                make, folder, progress, storage=storage, num_workers=workers, heartbeat_s=heartbeat
            )
            written = write_study(compared, folder)
    numbered = {str(number): line for number, line in enumerate(found["findings"], start=1)}
    print_values(found if as_json else {**numbered, "page": str(written[0])}, as_json)
    if any(trial["state"] == "failed" for trial in found.get("trials", [])):
        raise typer.Exit(1)


@app.command()
def advise(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe, a run's folder, or a folder with other trainers' logs.", autocompletion=complete_recipe
        ),
    ],
    steps: Annotated[int, typer.Option(help="Steps to train while measuring.")] = 256,
    branch: Annotated[
        bool, typer.Option("--branch", help="Measure the critical batch during training, by branches of the run.")
    ] = False,
    points: Annotated[str, typer.Option(help="--branch: where branches start, as shares of the run.")] = POINTS,
    factors: Annotated[str, typer.Option(help="--branch: the multiples of the batch to try.")] = FACTORS,
    tolerance: Annotated[
        float, typer.Option(help="--branch: a loss higher by this still counts as equal.")
    ] = TOLERANCE,
    out: Annotated[
        Path | None, typer.Option(help="Keep the measuring runs here; the same command continues them.")
    ] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes to measure on, on this machine.")] = None,
    assignments: Assignments = None,
    batch_sizes: LogBatchSizes = None,
    as_json: AsJson = False,
) -> None:
    """Measure which batch is worth it: by the gradient noise of a short run, or by branches of a run.

    For a folder with runs of the Hugging Face Trainer, or with TensorBoard's event files, read it from their logs.

    \b
    Examples:
      anybatch advise bert-demo
      anybatch advise bert-tiny --set data.path=shards --steps 512 --json
      anybatch advise bert-demo --branch --points 0.1,0.4
      anybatch advise runs/first --branch --out branches
      anybatch advise trainer/runs --batch-size adamw-32=32 --batch-size lamb-512=512
    """
    from anybatch.cli.advice_text import branches_text, logs_text, noise_text

    if Path(recipe).is_dir() and not (Path(recipe) / "recipe.json").is_file():
        from anybatch.elsewhere import batch_sizes as read
        from anybatch.study.own_runs import advise_on_logs

        logged = advise_on_logs(Path(recipe), read(batch_sizes or []))
        show(_json(logged) if as_json else logs_text(logged))
        return
    from anybatch.engine import progress_display
    from anybatch.recipes import RECIPES, change, find_recipe
    from anybatch.recipes.change import as_options, differences
    from anybatch.recipes.recipe import from_json
    from anybatch.runs import open_run
    from anybatch.study import advise as noise
    from anybatch.study import branching
    from anybatch.study.measuring import Trainer

    given = {"--points": points != POINTS, "--factors": factors != FACTORS, "--tolerance": tolerance != TOLERANCE}
    if not branch and any(given.values()):
        raise InputError(f"{next(name for name in given if given[name])} belongs to --branch, which is not given")
    if recipe not in RECIPES and Path(recipe).is_dir():
        measured = change(from_json(open_run(Path(recipe)).recipe()), assignments or [])
        name = measured.name
        settings = differences(measured, find_recipe(name)) if name in RECIPES else assignments or []
    else:
        name, settings = recipe, assignments or []
        measured = change(find_recipe(recipe), settings)
    with progress_display() as progress:
        trainer = Trainer(progress, nproc)
        if not branch:
            advice = noise.advise(measured, steps, trainer, settings, out)
            show(_json(advice) if as_json else noise_text(advice))
            return
        command = f"anybatch train {name}{as_options(settings)}"
        found = branching.advise(
            measured, _numbers("points", points, float), _numbers("factors", factors, int), tolerance, command, out,
            trainer,
        )  # fmt: skip
    show(_json(found) if as_json else branches_text(found))


def _json(values: Any) -> str:
    return json.dumps(null_for_nonfinite(values), indent=1)


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--{option} {text}: expected numbers separated by commas") from None


@app.command()
def plan(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe, or a published run: published-bert-large, ...", autocompletion=_complete_planned
        ),
    ],
    cluster: Annotated[
        str,
        typer.Option(help="h100-node, a100-node, ..., this-machine, or a FILE.toml.", autocompletion=_complete_cluster),
    ],
    devices: Annotated[int | None, typer.Option(help="The number of devices; default: find the best.")] = None,
    batch_size: BatchSize = None,
    deadline: Annotated[str | None, typer.Option(help="45min, 2h, 1.5d: find the cheapest plan that meets it.")] = None,
    budget: Annotated[float | None, typer.Option(help="US dollars: find the fastest plan within it.")] = None,
    price: Annotated[float | None, typer.Option(help="US dollars a device an hour.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Another optimizer than the recipe's.")] = None,
    critical_batch: Annotated[float | None, typer.Option(help="The batch at which examples double.")] = None,
    advice: Annotated[Path | None, typer.Option(help="The output of `anybatch advise --json` for this recipe.")] = None,
    calibrate: Annotated[Path | None, typer.Option(help="A run folder: take the speed of a step from it.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time and cost: an .svg, .png or .pdf file.")] = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Predict time, cost and the point of diminishing returns on other hardware.

    \b
    Examples:
      anybatch plan bert-large-paper --cluster h100-node --devices 8
      anybatch plan resnet50-paper --cluster a100-node --deadline 12h
      anybatch plan bert-mini --cluster this-machine --plot plan.svg
      anybatch plan bert-tiny --cluster this-machine --calibrate runs/small
    """
    from anybatch.cli.drawing import plan_text
    from anybatch.planner.command import plan as make_plan

    found = make_plan(
        recipe,
        cluster,
        devices=devices,
        batch_size=batch_size,
        deadline=deadline,
        budget=budget,
        price=price,
        optimizer=optimizer,
        critical_batch=critical_batch,
        advice=advice,
        calibration_run=calibrate,
        plot=plot,
        assignments=assignments,
    )
    show(json.dumps(found, indent=1) if as_json else plan_text(found))
