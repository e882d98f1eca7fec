"""Commands around data: data prepare, data inspect."""

from pathlib import Path
from typing import Annotated

import typer

from anybatch.cli.app import AsJson, data_app, print_values, show


@data_app.command()
def prepare(
    names: Annotated[
        list[str],
        typer.Argument(
            help=".txt, .jsonl (also .gz, .xz, .zst), .parquet; folders, globs, @LIST, hf:NAME[,CONFIG][@SPLIT].",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    vocabulary_size: Annotated[int, typer.Option(help="WordPieces to train; the most characters to keep.")] = 8192,
    tokenizer: Annotated[
        str, typer.Option(help="wordpiece, characters or bytes; or a tokenizer.json or vocab.txt to use unchanged.")
    ] = "wordpiece",
    held_out: Annotated[float, typer.Option(help="Share of the documents kept for evaluation.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the choice of held-out documents.")] = 0,
    min_characters: Annotated[int, typer.Option(min=0, help="Skip shorter documents.")] = 0,
    max_characters: Annotated[int | None, typer.Option(min=1, help="Skip longer documents.")] = None,
    drop_duplicates: Annotated[bool, typer.Option(help="Skip documents whose text repeats an earlier one.")] = False,
    processes: Annotated[int | None, typer.Option(help="Default: the number of cores.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards: documents, sentences, a vocabulary, memory-mapped tokens.

    If killed, run the same command again: it continues, except during vocabulary training. --tokenizer FILE skips this
    training.

    \b
    Examples:
      anybatch data prepare texts --out shards
      anybatch data prepare books news.jsonl.xz --out shards
      anybatch data prepare corpus.txt --out shards --tokenizer vocab.txt
      anybatch data prepare corpus.txt --out shards --tokenizer characters
    """
    from typing import get_args

    from anybatch.data import vocabulary
    from anybatch.data.prepare import Kind, prepare_files
    from anybatch.data.text import LengthFilter
    from anybatch.progress import progress_display, show_passes

    with progress_display() as progress:
        summary = prepare_files(
            names,
            out,
            vocabulary_size=vocabulary_size,
            tokenizer=tokenizer if tokenizer in get_args(Kind) else vocabulary.load(Path(tokenizer)),
            held_out=held_out,
            seed=seed,
            lengths=LengthFilter(min_characters, max_characters),
            drop_duplicates=drop_duplicates,
            processes=processes,
            progress=show_passes(progress),
        )
        if summary["unknown_share"] > 0.02:
            progress.say(
                f"{summary['unknown_share']:.1%} of the tokens are [UNK], from which the model learns nothing: "
                "a larger --vocabulary-size, or a vocabulary for this language, has fewer"
            )
    print_values({"folder": str(out), **summary}, as_json)


@data_app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder made by `anybatch data prepare`.")],
    as_json: AsJson = False,
) -> None:
    """Show the contents of token shards, and check them against their checksums.

    \b
    Examples:
      anybatch data inspect shards
      anybatch data inspect shards --json
    """
    import os
    import re

    from anybatch.cli.drawing import histogram
    from anybatch.data.inspect import summary

    found = summary(folder)
    if as_json:
        print_values(found, as_json)
        return
    examples = found.pop("examples")
    lengths = {name: found[name].pop("document_lengths") for name in ("train", "held_out")}
    print_values(found, as_json)
    for name, counts in lengths.items():
        show(f"\n{name.replace('_', ' ')} documents by length (row n: n to 2n-1 tokens):")
        show("\n".join(histogram(counts)))
    show("\nexamples as the model sees them, and [what is shown→what is to be predicted]:")
    for example in examples:
        colored = re.sub(r"\[\S+→\S+\]", lambda found: typer.style(found[0], fg="red", bold=True), example)
        typer.echo(f"  {colored}", color=False if "NO_COLOR" in os.environ else None)
