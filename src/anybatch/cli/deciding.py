"""Commands that help to decide: study, advise, plan."""

import json
from pathlib import Path
from typing import Annotated

import typer

from anybatch.cli.app import AsJson, Assignments, BatchSize, LogBatchSizes, app, complete_recipe, print_values, show


def _complete_study(incomplete: str) -> list[str]:
    from anybatch.study.catalogue import STUDIES

    return [name for name in ("theory", *STUDIES) if name.startswith(incomplete)] + complete_recipe(incomplete)


def _complete_planned(incomplete: str) -> list[str]:
    from anybatch.planner import PUBLISHED

    return [name for name in PUBLISHED if name.startswith(incomplete)] + complete_recipe(incomplete)


def _complete_cluster(incomplete: str) -> list[str]:
    from anybatch.planner.clusters import CLUSTERS

    return [name for name in ("this-machine", *CLUSTERS) if name.startswith(incomplete)]


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
    optimizers: Annotated[list[str] | None, typer.Option("--optimizer", help="Of a recipe's study; repeat it.")] = None,
    ranges: Annotated[
        list[str] | None, typer.Option("--range", metavar="[OPTIMIZER:]FIELD=LOW:HIGH", help="What is tuned.")
    ] = None,
    batch_sizes: Annotated[list[int] | None, typer.Option("--batch-size", help="Repeat it.")] = None,
    protocol: Annotated[str | None, typer.Option(help="untuned, grid or quasirandom.")] = None,
    trials: Annotated[int | None, typer.Option(help="Tuning trials of a quasirandom search.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Reported runs of each optimizer at each batch.")] = None,
    metric: Annotated[str | None, typer.Option(help="loss, or the name of an accuracy.")] = None,
    target: Annotated[float | None, typer.Option(help="The metric that steps are counted to.")] = None,
    seed: Annotated[int, typer.Option(help="Of the theory study.")] = 0,
    heartbeat: Annotated[int, typer.Option(min=1, help="Seconds between a worker's signs of life.")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run.")] = False,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Compare optimizers over batch sizes at equal tuning budgets; or measure the theory.

    Run the same command again, anywhere that reaches the storage, and the workers share the trials.

    \b
    Examples:
      anybatch study theory
      anybatch study demo --workers 2
      anybatch study mine.py --storage postgresql://host/db
      anybatch study bert-tiny --optimizer lamb --optimizer adamw \\
          --range optimizer.lr=1e-3:1e-1 --batch-size 64 --dry-run
    """
    from anybatch.engine import progress_display
    from anybatch.report.study import write_study
    from anybatch.report.theory import write_theory
    from anybatch.study.command import declared, finish_study, plan, plan_text, shown
    from anybatch.study.theory.run import run_theory

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
                print_values(planned, True) if as_json else show(plan_text(planned))
                return
            found = finish_study(make, folder, progress, storage=storage, num_workers=workers, heartbeat_s=heartbeat)
            written = write_study(found, folder)
    print_values(found if as_json else shown(found, written[0]), as_json)
    if any(trial["state"] == "failed" for trial in found.get("trials", [])):
        raise typer.Exit(1)


@app.command()
def advise(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe, or a folder with other trainers' logs.", autocompletion=complete_recipe),
    ],
    steps: Annotated[int, typer.Option(help="Steps to train while measuring.")] = 256,
    assignments: Assignments = None,
    batch_sizes: LogBatchSizes = None,
    as_json: AsJson = False,
) -> None:
    """Measure the gradient noise over a short run, and say which batch is worth it.

    Of a folder with runs of a Hugging Face Trainer, or TensorBoard's event files, say it from what they logged.

    \b
    Examples:
      anybatch advise bert-demo
      anybatch advise bert-tiny --set data.path=shards --steps 512 --json
      anybatch advise trainer/runs --batch-size adamw-32=32 --batch-size lamb-512=512
    """
    if Path(recipe).is_dir():
        from anybatch.elsewhere import batch_sizes as read
        from anybatch.study.own_runs import advise_on_logs, own_text, to_values

        found = advise_on_logs(Path(recipe), read(batch_sizes or []))
        show(json.dumps(to_values(found), indent=1) if as_json else own_text(found))
        return
    from anybatch.engine import progress_display
    from anybatch.recipes import change, find_recipe
    from anybatch.study.advise import advise as measure
    from anybatch.study.advise import to_json, to_text

    with progress_display() as progress:
        advice = measure(change(find_recipe(recipe), assignments or []), steps, progress, assignments or [])
    show(to_json(advice) if as_json else to_text(advice))


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
    devices: Annotated[int | None, typer.Option(help="Plan for this many; default: find the best.")] = None,
    batch_size: BatchSize = None,
    deadline: Annotated[str | None, typer.Option(help="45min, 2h, 1.5d: the cheapest that meets it.")] = None,
    budget: Annotated[float | None, typer.Option(help="US dollars: the fastest within it.")] = None,
    price: Annotated[float | None, typer.Option(help="US dollars a device an hour.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Another one than the recipe's.")] = None,
    critical_batch: Annotated[float | None, typer.Option(help="The batch at which examples double.")] = None,
    advice: Annotated[Path | None, typer.Option(help="What `anybatch advise --json` printed, for the same.")] = None,
    calibrate: Annotated[Path | None, typer.Option(help="A run folder: take the steps' speed from it.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw time and cost: an .svg, .png or .pdf file.")] = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Time, cost and the point of diminishing returns on hardware that is not here.

    \b
    Examples:
      anybatch plan bert-large-paper --cluster h100-node --devices 8
      anybatch plan resnet50-paper --cluster a100-node --deadline 12h
      anybatch plan bert-mini --cluster this-machine --plot plan.svg
      anybatch plan bert-tiny --cluster this-machine --calibrate runs/small
    """
    from anybatch.planner.command import plan as make_plan

    text = make_plan(
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
        as_json=as_json,
    )
    show(text)
