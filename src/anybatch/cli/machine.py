"""Commands about this machine: bench, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from anybatch.cli.app import AsJson, app, print_values, show
from anybatch.errors import InputError
from anybatch.files import write_json


@app.command()
def bench(
    shapes: Annotated[
        list[str] | None,
        typer.Option(help="bert-large, bert-base, resnet-50, many-small (default: these), or a recipe. Repeat it."),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="lamb or lars.")] = "lamb",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of torch; default: torch's choice.")] = None,
    busy: Annotated[int, typer.Option(help="Other processes that each keep a core busy.")] = 0,
    clip: Annotated[float | None, typer.Option(help="Clip the gradients' global norm to this.")] = None,
    repeats: Annotated[int, typer.Option(help="Samples of each step, at least 7; the median counts.")] = 9,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile of a per-tensor LAMB.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the measurement as JSON here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time the optimizer step on this machine, against other installed libraries and the memory's speed.

    \b
    Examples:
      anybatch bench --shapes resnet-50 --shapes gpt2-small
      anybatch bench --shapes bert-base --threads 1 --out step.json
      anybatch bench --algorithm lars --shapes resnet-50 --busy 1
    """
    from anybatch.cli.drawing import bench_text
    from anybatch.engine import progress_display
    from anybatch.machine.bench import Conditions, measure
    from anybatch.machine.shapes import SETS

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
        print_values(found, as_json)
    else:
        show("\n".join(bench_text(found)))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Print what is installed, which kernels take a step here, and what is missing.

    \b
    Examples:
      anybatch doctor
      anybatch doctor --json
    """
    from anybatch.machine.doctor import examine

    print_values(examine(), as_json)
