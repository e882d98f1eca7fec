"""How fast text becomes shards, and shards become masked batches.

    python benchmarks/text_data.py [FILE ...] [--repeats 3] [--cores N]

Preparation, from raw files to shards with a given vocabulary, is timed beside `tokenizers` alone, which gets the same
documents decoded and in memory, on the same number of cores, in turns in one run. Batches are timed on one core.
Without files: the text that comes with Python. Writes benchmarks/results/text-data.json with the hardware and versions.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from anybatch.data import vocabulary
from anybatch.data.builtin import python_documents
from anybatch.data.mlm import MlmSettings, PretrainingSource
from anybatch.data.prepare import TOKENIZER, TRAIN, prepare_files
from anybatch.data.shards import open_shards
from anybatch.data.text import read_documents
from anybatch.environment import available_cores, describe_environment
from anybatch.files import write_json

RESULTS = Path(__file__).parent / "results" / "text-data.json"
PORTION = 1 << 21
VOCABULARY_SIZE = 30_522
BATCH = 256
BATCHES: list[tuple[str, int, dict[str, Any]]] = [
    ("128 tokens", 128, {}),
    ("128 tokens, whole words", 128, {"whole_words": True}),
    ("128 tokens, short sequences, packed", 128, {"short_seq_prob": 0.1, "packed": True}),
    ("128 tokens, full sentences", 128, {"objective": "full_sentences"}),
    ("512 tokens", 512, {}),
]


def tokenizers_alone(files: list[Path], tokenizer_file: Path, cores: int) -> dict[str, float]:
    """Seconds to encode the documents in portions, on all cores; reading them is not counted."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if cores > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(cores)
    tokenizer = vocabulary.load(tokenizer_file)
    seconds, cpu_seconds, portion, length, tokens = 0.0, 0.0, [], 0, 0
    for document in [*read_documents(files), None]:
        if document is not None:
            portion.append(document)
            length += len(document)
        if length >= PORTION or document is None:
            started, cpu_started = time.perf_counter(), time.process_time()
            encodings = tokenizer.encode_batch_fast(portion, add_special_tokens=False)
            seconds += time.perf_counter() - started
            cpu_seconds += time.process_time() - cpu_started
            tokens += sum(len(encoding) for encoding in encodings)
            portion, length = [], 0
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens}


def cpu_time() -> float:
    """Seconds of this process and of its children that have ended, on all cores."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def preparation(files: list[Path], tokenizer_file: Path, cores: int) -> dict[str, float]:
    """Seconds from raw files to a folder of shards; peak memory of the main process and of its largest worker."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = vocabulary.load(tokenizer_file)
        started, cpu_started = time.perf_counter(), cpu_time()
        summary = prepare_files(files, Path(folder) / "out", tokenizer=tokenizer, processes=cores)
        seconds, cpu_seconds = time.perf_counter() - started, cpu_time() - cpu_started
    kibibytes = {
        name: resource.getrusage(who).ru_maxrss
        for name, who in (("main_mib", resource.RUSAGE_SELF), ("worker_mib", resource.RUSAGE_CHILDREN))
    }
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens": summary["train"]["tokens"] + summary["held_out"]["tokens"],
        **{name: value / 1024 for name, value in kibibytes.items()},
    }


def apart(kind: str, files: list[Path], tokenizer: Path, cores: int) -> dict[str, float]:
    """`kind` in an interpreter of its own, whose threads and memory are its own."""
    command = [sys.executable, __file__, "--only", kind, "--cores", str(cores), "--tokenizer", str(tokenizer)]
    printed = subprocess.run([*command, *map(str, files)], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def batches(shards: Path, seq_length: int, options: dict[str, Any], repeats: int) -> float:
    """Masked sequences a second, on one core."""
    source = PretrainingSource(
        open_shards(shards / TRAIN), vocabulary.load(shards / TOKENIZER), seq_length, 0, settings=MlmSettings(**options)
    )
    size = min(BATCH, source.num_examples)
    rates = []
    for _ in range(repeats + 1):
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < 1:
            examples = (np.arange(size) + done) % source.num_examples
            source.batch(np.zeros(size, dtype=np.int64), examples)
            done += size
        rates.append(done / (time.perf_counter() - started))
    return median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        timed = {"tokenizers": tokenizers_alone, "anybatch": preparation}[arguments.only]
        print(json.dumps(timed(arguments.files, arguments.tokenizer, arguments.cores)))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.files or [Path(folder) / "python.jsonl"]
        if not arguments.files:
            files[0].write_text("".join(json.dumps({"text": each}) + "\n" for each in python_documents()))
        num_bytes = sum(len(document.encode()) for document in read_documents(files))
        shards = Path(folder) / "shards"
        prepare_files(files[:1], shards, vocabulary_size=VOCABULARY_SIZE)
        runs: dict[str, list[dict[str, float]]] = {"tokenizers": [], "anybatch": []}
        for _ in range(arguments.repeats):
            for kind, found in runs.items():
                found.append(apart(kind, files, shards / TOKENIZER, arguments.cores))
        rates = {kind: num_bytes / 1e6 / median(run["seconds"] for run in found) for kind, found in runs.items()}
        result = {
            "text": {"files": [path.name for path in files], "bytes": num_bytes},
            "cores": arguments.cores,
            "megabytes_per_s": rates,
            "anybatch_over_tokenizers": rates["anybatch"] / rates["tokenizers"],
            # What other work on the machine disturbs less.
            "megabytes_per_cpu_s": {
                kind: num_bytes / 1e6 / median(run["cpu_seconds"] for run in found) for kind, found in runs.items()
            },
            "masked_sequences_per_s_a_core": {
                name: batches(shards, length, options, arguments.repeats) for name, length, options in BATCHES
            },
            "runs": runs,
            "environment": describe_environment(),
        }
    write_json(RESULTS, result)
    print(json.dumps({name: value for name, value in result.items() if name not in ("runs", "environment")}, indent=1))


if __name__ == "__main__":
    main()
