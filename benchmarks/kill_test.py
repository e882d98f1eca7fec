"""Kills a run at random moments until it is done, and compares it with one that nobody touched.

    python benchmarks/kill_test.py --kills 50 --ranks 2 [--async-checkpoints]

A small BERT on made-up text; the ranks are forked from this process, which has imported everything, so that a kill
costs two seconds and not ten. What is done to them is drawn from --seed: SIGKILL to all ranks or to one, SIGTERM to all
or to one, SIGKILL while a checkpoint is being written, and SIGKILL in the step in which an epoch of the data ends. The
run is sound if its final parameters are bitwise those of the undisturbed run, every step was recorded once, and the
examples of every step are the same. Prints a JSON object; exit code 1 where the run is not sound.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import transformers.models.bert.modeling_bert  # noqa: F401  (imported once, before the forks)

from anybatch.data import vocabulary
from anybatch.data.mlm import PretrainingSource
from anybatch.data.prepare import prepare
from anybatch.data.shards import open_shards
from anybatch.environment import describe_environment
from anybatch.errors import Elsewhere, Stopped
from anybatch.recipes import Recipe, change, find_recipe, train_recipe
from anybatch.runs import Run

WAYS = ("kill all", "kill one", "terminate all", "terminate one", "kill during save", "kill at the epoch's end")
SAVE_EVERY = 3
SEQUENCE_LENGTH = 32
# Longer than a forked rank can take to its first step, even on a busy machine.
PATIENCE_S = 120.0


def recipe_of(data: Path, num_steps: int, async_checkpoints: bool) -> Recipe:
    """`num_steps` steps of 16 examples."""
    settings = {
        "data.path": str(data),
        "data.num_held_out": 32,
        "reference.num_examples": 16 * num_steps,
        "phases.0.sequence_length": SEQUENCE_LENGTH,
        "model.hidden_size": 32,
        "engine.num_evals": 4,
        "engine.micro_batch_size": 3,
        "engine.checkpoint_every_steps": SAVE_EVERY,
        "engine.async_checkpoints": async_checkpoints,
    }
    return change(find_recipe("bert-demo"), [f"{name}={json.dumps(value)}" for name, value in settings.items()])


def write_text(folder: Path) -> None:
    """About 200 examples: an epoch ends every dozen steps."""
    words = random.Random(0)
    documents = [
        " ".join(f"{' '.join(words.choices('abcdefghij', k=12))} ends here." for _ in range(12)) for number in range(30)
    ]
    prepare(lambda: documents, folder, vocabulary_size=256, held_out=0.2)
    source = PretrainingSource(
        open_shards(folder / "train"),
        vocabulary.load(folder / "tokenizer.json"),
        SEQUENCE_LENGTH,
        seed=0,
    )
    (folder / "num_examples").write_text(str(source.num_examples))


def fork(main: Callable[[], None]) -> int:
    """Runs `main` in a process of its own; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        main()
        code = 0
    except Stopped:
        code = 75
    except Elsewhere as told:
        code = told.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def start(recipe: Recipe, folder: Path, num_ranks: int) -> list[int]:
    """All ranks of the run in `folder`, new or resumed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank_main(rank: int) -> None:
        # What a rank that is killed on purpose has to say about it is not interesting.
        os.dup2(os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
        train_recipe(recipe, folder, resume=True)

    return [fork(lambda rank=rank: rank_main(rank)) for rank in range(num_ranks)]


def wait(processes: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def last_step(run: Run) -> int:
    return max((event["step"] for event in run.metrics("train")), default=0) if run.metrics_file.exists() else 0


def disturb(run: Run, processes: list[int], way: str, steps: int, epoch_steps: float, chance: random.Random) -> None:
    """Waits for the moment and sends the signal; `steps` after the run has gone on, or at the moment of the way.

    One step at least: where ranks have not met yet, the others wait for one that is killed until a launcher ends them.
    """
    began = last_step(run)
    if way == "kill at the epoch's end":
        epochs = int((began + 1) / epoch_steps) + 1
        steps = max(1, int(epochs * epoch_steps) - began)
    deadline = time.monotonic() + PATIENCE_S
    # A resumed run first drops what came after its checkpoint, so that the last step may be earlier than before.
    seen = Counter[int]()
    while time.monotonic() < deadline:
        if any(os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) for process in processes):
            return
        if way == "kill during save":
            if any(run.checkpoints.glob(".step-*")) and chance.random() < 0.5:
                break
        else:
            with suppress(OSError, ValueError):
                seen[last_step(run)] += 1
            if len(seen) > steps:
                break
        time.sleep(0.001)
    victims = [chance.choice(processes)] if way.endswith("one") else processes
    for process in victims:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM if way.startswith("terminate") else signal.SIGKILL)


def outcome(run: Run) -> tuple[bytes, list[tuple[int, str]]]:
    """The final parameters, and the examples of every step."""
    steps = [(event["step"], event["examples_checksum"]) for event in run.metrics("train")]
    return (run.model / "model.safetensors").read_bytes(), steps


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--async-checkpoints", action="store_true", help="write them while the run goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="write the JSON object here, too")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert wait([fork(lambda: write_text(folder / "data"))]) == [0]
        num_examples = int((folder / "data" / "num_examples").read_text())
        recipe = recipe_of(folder / "data", num_steps=20 + 5 * asked.kills, async_checkpoints=asked.async_checkpoints)
        whole, killed = Run(folder / "whole"), Run(folder / "killed")
        assert wait(start(recipe, whole.path, asked.ranks)) == [0] * asked.ranks, (folder / "whole.log").read_text()
        ways: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        while sum(ways.values()) < asked.kills and not killed.finished:
            way = WAYS[sum(ways.values()) % len(WAYS)]
            processes = start(recipe, killed.path, asked.ranks)
            disturb(killed, processes, way, chance.randint(1, 5), num_examples / 16, chance)
            ends.update(map(str, wait(processes)))
            ways[way] += 1
        while not killed.finished:
            assert wait(start(recipe, killed.path, asked.ranks)) == [0] * asked.ranks, (
                folder / "killed.log"
            ).read_text()
        (parameters, steps), (expected_parameters, expected_steps) = outcome(killed), outcome(whole)
        found = {
            "async checkpoints": asked.async_checkpoints,
            "kills": dict(ways),
            "exit codes of ranks": dict(ends),
            "steps": len(expected_steps),
            "steps an epoch": num_examples / 16,
            "starts": len(killed.metrics("start")),
            "parameters are bitwise the same": parameters == expected_parameters,
            "every step once, on the same examples": steps == expected_steps,
            "wall_s": round(time.monotonic() - started, 1),
            "environment": describe_environment(),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n")
    return 0 if parameters == expected_parameters and steps == expected_steps else 1


if __name__ == "__main__":
    sys.exit(main())
