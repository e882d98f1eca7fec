"""Does untuned LAMB keep quality at larger batches? Pretraining at b, 4b, 16b and 64b, then SQuAD F1.

    python benchmarks/text_experiment.py SHARDS --questions train.json --dev dev.json [--recipe bert-mini] [--out DIR]

LAMB, LARS and AdamW each start from a rate tuned at batch b (`--lr NAME=RATE`), which the recipe's rules carry to the
larger batches; the number of examples is the same everywhere. Each pretrained model is fine-tuned with the recipe
`squad` and scored on --dev by the official rules. A cell that is done is not done again. Writes OUT/experiment.json
with the seeds, the settings, the hardware and the versions.
"""

import argparse
from pathlib import Path
from typing import Any

from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, evaluate_run, find_recipe, train_recipe, with_batch_size

FACTORS = (1, 4, 16, 64)
OPTIMIZERS = ("lamb", "lars", "adamw")


def cell(arguments: argparse.Namespace, optimizer: str, factor: int, seed: int) -> dict[str, Any]:
    """One pretraining run and its fine-tuning, with the scores of both."""
    base = find_recipe(arguments.recipe)
    size = arguments.batch_size * factor
    settings = [f"data.path={arguments.shards}", f"optimizer.name={optimizer}", f"seed={seed}"]
    settings += [f"reference.batch_size={arguments.batch_size}", f"reference.num_examples={arguments.examples}"]
    if optimizer in arguments.lr:
        settings.append(f"reference.lr={arguments.lr[optimizer]}")
    folder = arguments.out / f"{optimizer}-b{size}-s{seed}"
    recipe = change(with_batch_size(base, size), [*settings, *arguments.set])
    text = train_recipe(recipe, folder / "text", resume=True)
    asked = ["reference.num_epochs=2", f"data.path={arguments.questions}", f"model.path={folder / 'text'}"]
    asked += [f"seed={seed}", *arguments.set_squad]
    train_recipe(change(find_recipe("squad"), asked), folder / "answers", resume=True)
    return {
        "optimizer": optimizer,
        "batch_size": size,
        "seed": seed,
        "lr": text["lr"],
        "num_steps": text["num_steps"],
        "pretraining": text["final"],
        "squad": evaluate_run(folder / "answers", arguments.dev),
    }


def pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--recipe", default="bert-mini")
    parser.add_argument("--batch-size", type=int, default=32, help="b")
    parser.add_argument("--examples", type=int, default=500_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--factors", type=int, nargs="+", default=FACTORS)
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    parser.add_argument("--lr", type=pair, nargs="+", default=[], metavar="NAME=RATE")
    parser.add_argument("--set", nargs="+", default=[], help="further settings of pretraining")
    parser.add_argument("--set-squad", nargs="+", default=[], help="further settings of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("text-experiment"))
    arguments = parser.parse_args()
    arguments.lr = dict(arguments.lr)
    rows = []
    for optimizer in arguments.optimizers:
        for factor in arguments.factors:
            for seed in arguments.seeds:
                rows.append(cell(arguments, optimizer, factor, seed))
                print(rows[-1])
                settings = {name: str(value) for name, value in vars(arguments).items()}
                write_json(
                    arguments.out / "experiment.json",
                    {"settings": settings, "rows": rows, "environment": describe_environment()},
                )


if __name__ == "__main__":
    main()
