"""Commands around runs: demo, recipes, train, eval, report."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from anybatch.cli.app import (
    AsJson,
    Assignments,
    BatchSize,
    LogBatchSizes,
    app,
    complete_recipe,
    given_options,
    print_values,
    show,
)
from anybatch.errors import InputError


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the data, the runs, findings.json and report.html.")] = Path(
        "anybatch-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
) -> None:
    """Train a GPT at small and large batches on text that comes with Python, and show whether quality held.

    \b
    Examples:
      anybatch demo
      anybatch demo --out anybatch-demo-1 --seed 1
    """
    from anybatch.engine import progress_display
    from anybatch.report import write_report
    from anybatch.study.demo import measured_before, run_demo

    with progress_display() as progress:
        runs = run_demo(out, seed, progress)
    page = out / "report.html"
    write_report(runs, page, title="One recipe, many batch sizes", background=measured_before())
    show(f"The report is in {page}")


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Show every option of this one.", autocompletion=complete_recipe),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes that `anybatch train` knows, or every option of one: its name for --set, value, what it does.

    \b
    Examples:
      anybatch recipes
      anybatch recipes bert-tiny
      anybatch recipes --json
    """
    from anybatch.cli.drawing import options_text
    from anybatch.recipes import RECIPES, find_recipe
    from anybatch.recipes.options import options_of

    if name is None:
        docs = {each: (make.__doc__ or "").split("\n\n")[0] for each, make in RECIPES.items()}
        print_values({each: " ".join(text.split()) for each, text in docs.items()}, as_json)
        return
    found = options_of(find_recipe(name))
    show(json.dumps(found, indent=1, ensure_ascii=False) if as_json else options_text(found))


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A name from `anybatch recipes`, or a recipe.json; not needed with --resume.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The run folder; default runs/RECIPE-bBATCH-sSEED.")] = None,
    batch_size: BatchSize = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped or killed run.")] = False,
    assignments: Assignments = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes to train on, on this machine.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show phases, learning rates, memory and time; train nothing.")
    ] = False,
    relaunch: Annotated[int, typer.Option(min=0, help="Restart after a crash, at most N times.")] = 0,
    track: Annotated[str | None, typer.Option(help="Also send the numbers to wandb, mlflow or tensorboard.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe, at any batch size, into a run folder.

    --set changes any field of the recipe; fields are named as in a run's recipe.json.

    \b
    Examples:
      anybatch train digits-lenet --batch-size 256
      anybatch train bert-tiny --set data.path=shards --dry-run
      anybatch train bert-tiny --set data.path=shards --run runs/a --nproc 2
      anybatch train --resume --run runs/a
      anybatch train digits-lenet --track wandb              offline without a key
      anybatch train bert-mini --set reference.lr=0.005      before scaling
      anybatch train bert-mini --set optimizer.lr=0.02       after it
    """
    from anybatch.cli.drawing import preview_text
    from anybatch.engine import progress_display, supervise
    from anybatch.integrations.trackers import Tracker, check_tracker
    from anybatch.recipes import (
        change,
        find_recipe,
        preview_recipe,
        recipe_of,
        train_recipe,
        with_batch_size,
    )

    if recipe is None and (run is None or not resume):
        raise InputError("name a recipe (`anybatch recipes` lists them), or continue a run: --resume --run FOLDER")
    chosen = change(find_recipe(recipe) if recipe is not None else recipe_of(cast(Path, run)), assignments or [])
    if batch_size is not None:
        chosen = with_batch_size(chosen, batch_size)
    if dry_run:
        found = preview_recipe(chosen, nproc or 1)
        show(json.dumps(found, indent=1) if as_json else preview_text(found))
        return
    if track is not None:
        try:
            check_tracker(track)
        except ValueError as error:
            raise InputError(str(error)) from None
    folder = run or Path("runs") / f"{chosen.name}-b{chosen.phases[0].batch_size}-s{chosen.seed}"
    if nproc is not None or relaunch:
        # The ranks are given the recipe as a file; --set and --batch-size have had their say.
        others = given_options(context, but={"recipe", "assignments", "batch_size", "run", "nproc", "relaunch"})
        arguments = ["train", f"--run={folder}", *others]
        supervise(arguments, chosen.model_dump(mode="json"), nproc or 1, relaunch)
        return
    with progress_display() as progress:
        result = train_recipe(
            chosen, folder, resume=resume, progress=progress, mirror=partial(Tracker, track) if track else None
        )
    if result:
        print_values(
            {"run": str(folder), **result["final"]} if not as_json else {"run": str(folder), **result}, as_json
        )


@app.command(name="eval")
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A run folder, or a checkpoint's folder in it.")] = None,
    squad: Annotated[Path | None, typer.Option(help="Questions in SQuAD v1.1 or v2.0 layout.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Answers to score: a JSON object, id to text.")] = None,
    null_threshold: Annotated[
        float | None,
        typer.Option(help='SQuAD v2.0: predict "no answer" if its score exceeds the best answer\'s by more than this.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a run, one of its checkpoints, or a file of answers.

    A run that has not finished is scored at its newest checkpoint; `step` is the scored step.

    \b
    Examples:
      anybatch eval runs/first
      anybatch eval runs/first/checkpoints/step-00000100
      anybatch eval runs/answers --squad dev.json
      anybatch eval --predictions answers.json --squad dev.json --json
    """
    if predictions is not None:
        if squad is None or run is not None or null_threshold is not None:
            raise InputError("--predictions needs --squad FILE, and neither a run folder nor a null threshold")
        from anybatch.data.squad import read_questions
        from anybatch.evaluation.squad_score import read_predictions, score

        print_values(score(read_predictions(predictions), read_questions(squad)), as_json)
        return
    if run is None:
        raise InputError("name a run folder, or --predictions FILE --squad FILE")
    from anybatch.engine import progress_display
    from anybatch.recipes import evaluate_step

    with progress_display() as progress:
        step, scores = evaluate_step(run, squad, null_threshold, progress)
    print_values({"step": step, **scores}, as_json)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, other trainers' logs, or folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("report.html"),
    batch_sizes: LogBatchSizes = None,
) -> None:
    """Make one self-contained HTML page from run folders of anybatch or the Hugging Face Trainer, or TensorBoard logs.

    \b
    Examples:
      anybatch report runs
      anybatch report runs/small runs/large -o report.html
      anybatch report adamw-32 lamb-512 --batch-size adamw-32=32
    """
    from anybatch.elsewhere import batch_sizes as read
    from anybatch.report import write_report

    write_report(folders, out, batch_sizes=read(batch_sizes or []))
    show(f"The report is in {out}")
