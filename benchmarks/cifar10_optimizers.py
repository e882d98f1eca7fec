"""The optimizers of the LAMB paper's appendix on a very short run of CIFAR-10: ResNet-20, 60 steps of 128 images.

    python benchmarks/cifar10_optimizers.py DATA --out DIR [--only NAME ...]

Three rates for each optimizer, a factor of about three apart, one seed, on the first 10,000 training images (1,000 a
class), evaluated on the first 1,000 test images (100 a class).

A run that is there already is not repeated, so that the whole can be done in parts. Writes
benchmarks/results/cifar10-optimizers.json. What so short a run shows is how fast each starts, no more.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from anybatch.engine.environment import describe_environment
from anybatch.files import write_json
from anybatch.recipes import change, find_recipe, train_recipe

STEPS, BATCH, TRAINING, HELD_OUT = 60, 128, 10_000, 1_000
# Around what each is commonly used with.
RATES = {
    "adagrad": (0.003, 0.01, 0.03),
    "adam": (0.001, 0.003, 0.01),
    "adamw": (0.001, 0.003, 0.01),
    "momentum": (0.03, 0.1, 0.3),
    "lars": (0.01, 0.03, 0.1),
    "lamb": (0.01, 0.03, 0.1),
}
# L2 that goes through Adam's and AdaGrad's moments is another thing than decay; both then go without.
WEIGHT_DECAY = {"adagrad": 0.0, "adam": 0.0, "adamw": 0.01, "momentum": 5e-4, "lars": 5e-4, "lamb": 0.01}
RESULTS = Path(__file__).parent / "results" / "cifar10-optimizers.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=RATES, nargs="+", default=list(RATES), help="these, and write no result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(exist_ok=True)
    data = first_images(arguments.data, arguments.out / "data")
    rows: list[dict[str, Any]] = []
    for name in arguments.only:
        for lr in RATES[name]:
            recipe = change(
                find_recipe("cifar10-resnet20"),
                [
                    f"optimizer.name={name}",
                    f"optimizer.weight_decay={WEIGHT_DECAY[name]}",
                    f"reference.lr={lr}",
                    f"reference.num_examples={STEPS * BATCH}",
                    "reference.warmup_ratio=0.1",
                    "engine.num_evals=1",
                    f"data.path={data}",
                ],
            )
            result = train_recipe(recipe, arguments.out / f"{name}-{lr}", resume=True)
            final = result["final"]
            rows.append(
                {"optimizer": name, "lr": lr, "weight_decay": WEIGHT_DECAY[name], "top1": final["top1"],
                 "top5": final["top5"], "loss": final["loss"], "train_s": result["train_s"]}
            )  # fmt: skip
            print(f"{name:9} rate {lr:<6} top-1 {100 * final['top1']:.1f} %, loss {final['loss']:.3f}", flush=True)
    if arguments.only != list(RATES):
        return
    environment = {**describe_environment(), "threads": 1, "command": ["cifar10_optimizers.py"]}
    settings = {"steps": STEPS, "batch_size": BATCH, "num_training": TRAINING, "num_held_out": HELD_OUT, "seed": 0}
    write_json(RESULTS, {"environment": environment, **settings, "rows": rows})


def first_images(data: Path, out: Path) -> Path:
    """A folder with the first images of both parts, which are balanced over the classes."""
    import pyarrow.parquet as pq

    if not out.exists():
        out.mkdir()
        for part, count in (("train", TRAINING), ("test", HELD_OUT)):
            pq.write_table(pq.read_table(data / f"{part}.parquet").slice(0, count), out / f"{part}.parquet")
    return out


if __name__ == "__main__":
    main()
