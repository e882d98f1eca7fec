"""The command line: arguments in, exit codes out; no logic.

Exit codes: 0 done, 1 failed, 2 the input is wrong, 75 stopped on request and resumable.
"""

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from anybatch.errors import Elsewhere, Failed, InputError, Stopped
from anybatch.files import write_json

app = typer.Typer(
    name="anybatch",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Batch size is a hardware decision, not a hyperparameter.",
)
data_app = typer.Typer(help="Raw text files to token shards, and a look at them.")
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: --set optimizer.lr=2e-3")
]
BatchSize = Annotated[int | None, typer.Option(help="Examples a step; rate, warm-up and steps follow.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the data, the runs and report.html.")] = Path(
        "anybatch-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, order, masks.")] = 0,
) -> None:
    """Train BERT at small and large batches on text that every Python has, and show whether quality held."""
    from anybatch.engine import progress_display
    from anybatch.report import write_report
    from anybatch.study.demo import measured_before, run_demo

    with progress_display() as progress:
        runs = run_demo(out, seed, progress)
    page = out / "report.html"
    write_report(runs, page, title="One recipe, many batch sizes", background=measured_before())
    print(f"The report is in {page}")


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that `anybatch train` knows."""
    from anybatch.recipes import RECIPES

    rows = {name: " ".join((function.__doc__ or "").split("\n\n")[0].split()) for name, function in RECIPES.items()}
    _print(rows, as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A name from `anybatch recipes`.")],
    run: Annotated[Path | None, typer.Option(help="The run folder; default runs/RECIPE-bBATCH-sSEED.")] = None,
    batch_size: BatchSize = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped or killed run.")] = False,
    assignments: Assignments = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes of this machine to train on, by torchrun.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show phases, rates, memory and time; train nothing.")
    ] = False,
    relaunch: Annotated[int, typer.Option(min=0, help="Start again after a crash, at most so often.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a recipe, at any batch size, into a run folder.

    Example: anybatch train bert-tiny --batch-size 64 --set data.path=shards --run runs/first --nproc 2
    """
    from anybatch.engine import progress_display, supervise
    from anybatch.recipes import change, find_recipe, preview_recipe, preview_text, train_recipe, with_batch_size

    chosen = change(find_recipe(recipe), assignments or [])
    if batch_size is not None:
        chosen = with_batch_size(chosen, batch_size)
    if dry_run:
        found = preview_recipe(chosen, nproc or 1)
        print(json.dumps(found, indent=1) if as_json else preview_text(found))
        return
    folder = run or Path("runs") / f"{chosen.name}-b{chosen.phases[0].batch_size}-s{chosen.seed}"
    if nproc is not None or relaunch:
        arguments = ["train", recipe, f"--run={folder}", *(f"--set={each}" for each in assignments or [])]
        arguments += [] if batch_size is None else [f"--batch-size={batch_size}"]
        arguments += [flag for flag, given in (("--resume", resume), ("--json", as_json)) if given]
        supervise(arguments, nproc or 1, relaunch)
        return
    with progress_display() as progress:
        result = train_recipe(chosen, folder, resume=resume, progress=progress)
    if result:
        _print({"run": str(folder), **result["final"]} if not as_json else {"run": str(folder), **result}, as_json)


@app.command(name="eval")
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A finished run folder.")] = None,
    squad: Annotated[Path | None, typer.Option(help="Questions in SQuAD v1.1 layout.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Answers to score: a JSON object, id to text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run, or a file of answers.

    Examples: anybatch eval runs/first        anybatch eval --predictions answers.json --squad dev.json --json
    """
    if predictions is not None:
        if squad is None or run is not None:
            raise InputError("--predictions needs --squad FILE, and no run folder")
        from anybatch.data.squad import read_questions
        from anybatch.data.squad_score import read_predictions, score

        _print(score(read_predictions(predictions), read_questions(squad)), as_json)
        return
    if run is None:
        raise InputError("name a run folder, or --predictions FILE --squad FILE")
    from anybatch.recipes import evaluate_run

    _print(evaluate_run(run, squad), as_json)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one self-contained HTML page of run folders."""
    from anybatch.report import write_report

    write_report(folders, out)
    print(f"The report is in {out}")


@app.command()
def bench(
    shapes: Annotated[
        list[str] | None, typer.Option(help="bert-large, bert-base, resnet-50, many-small; default all.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="lamb or lars.")] = "lamb",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Of torch; default: as torch chooses.")] = None,
    busy: Annotated[int, typer.Option(help="Other processes that keep a core busy meanwhile.")] = 0,
    clip: Annotated[float | None, typer.Option(help="Clip the gradients' global norm to this.")] = None,
    repeats: Annotated[int, typer.Option(help="Samples of each step, at least 7; the median counts.")] = 9,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile of a per-tensor LAMB.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the measurement as JSON here, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time the optimizer step on this machine, against what else is installed and what the memory allows.

    Example: anybatch bench --shapes resnet-50 --threads 1 --out step.json
    """
    from anybatch.engine import progress_display
    from anybatch.machine.bench import Conditions, measure
    from anybatch.machine.shapes import SETS
    from anybatch.machine.table import print_tables

    chosen = Conditions(
        algorithm=algorithm,
        sets=tuple(shapes or SETS),
        device=device,
        threads=threads,
        busy=busy,
        clip=clip,
        repeats=repeats,
        compiled=compiled,
    )
    if out is not None and not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder")
    with progress_display() as progress:
        found = measure(chosen, progress)
    if out is not None:
        write_json(out, found)
    if as_json:
        _print(found, as_json)
    else:
        print_tables(found)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which kernels take a step here, and what is missing."""
    from anybatch.machine.doctor import examine

    _print(examine(), as_json)


@app.command()
def advise(
    recipe: Annotated[str, typer.Argument(help="A name from `anybatch recipes`.")],
    steps: Annotated[int, typer.Option(help="Steps to train while measuring.")] = 256,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Measure the gradient noise over a short run, and say which batch is worth it.

    Example: anybatch advise bert-tiny --set data.path=shards
    """
    from anybatch.engine import progress_display
    from anybatch.recipes import change, find_recipe
    from anybatch.study.advise import advise as measure
    from anybatch.study.advise import to_json, to_text

    with progress_display() as progress:
        advice = measure(change(find_recipe(recipe), assignments or []), steps, progress)
    print(to_json(advice) if as_json else to_text(advice))


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe, or a published run: bert-large, resnet50, ...")],
    cluster: Annotated[str, typer.Option(help="h100-node, a100-node, ..., this-machine.")],
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

    Example: anybatch plan bert-large --cluster a100-node --deadline 2h --plot plan.svg
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
    print(text)


@data_app.command()
def prepare(
    files: Annotated[list[Path], typer.Argument(help=".txt or .jsonl files, plain, .gz or .xz.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    vocabulary_size: Annotated[int, typer.Option(help="WordPieces to train.")] = 8192,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this tokenizer.json instead of training one.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the documents kept for evaluation.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the choice of held-out documents.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards: documents, sentences, a WordPiece vocabulary, memory-mapped tokens.

    Example: anybatch data prepare books/*.txt --out shards
    """
    from dataclasses import asdict

    from anybatch.data import vocabulary
    from anybatch.data.prepare import prepare as write_shards
    from anybatch.data.text import read_documents

    summary = write_shards(
        lambda: read_documents(files),
        out,
        vocabulary_size=vocabulary_size,
        tokenizer=None if tokenizer is None else vocabulary.load(tokenizer),
        held_out=held_out,
        seed=seed,
    )
    _print({"folder": str(out), **asdict(summary)}, as_json)


@data_app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder made by `anybatch data prepare`.")],
    as_json: AsJson = False,
) -> None:
    """Show what token shards hold, and check them against their checksums."""
    from dataclasses import asdict

    from anybatch.data.inspect import summary

    found = asdict(summary(folder))
    if as_json:
        _print(found, as_json)
        return
    examples = found.pop("examples")
    _print(found, as_json)
    print("\nexamples as the model sees them:")
    for example in examples:
        print(f"  {example}")


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGUSR1, _warned)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Typer turns Ctrl-C into the exit code 130, which it returns.
        if app(sys.argv[1:] or ["--help"], standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except typer.TyperException as error:
        _fail(getattr(error, "format_message", error.__str__)(), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except InputError as error:
        _fail(str(error), 2)
    except Stopped as stop:
        _fail(str(stop), 75)
    except Failed as error:
        _fail(str(error), 1)
    except Elsewhere as told:
        sys.exit(told.code)
    except BrokenPipeError:
        # The reader of our output has gone: nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        advice = "; free some space and run it again, a run with --resume" if error.errno == errno.ENOSPC else ""
        _fail((f"{error.filename}: {error.strerror}" if error.filename else str(error)) + advice, 1)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Outside training, where a run is saved first, SIGTERM ends a command at once, but cleans up."""
    _fail(f"ended by {signal.Signals(number).name}", 128 + number)


def _warned(number: int, frame: FrameType | None) -> None:
    """A scheduler's warning outside training: nothing is there to save yet, and the same command can be given again."""
    _fail(f"{signal.Signals(number).name} before training began; give the same command again", 75)


def _fail(message: str, code: int) -> None:
    print(f"anybatch: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _print(values: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
        return
    rows = dict(_flat(values))
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, value
