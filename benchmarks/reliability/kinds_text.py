"""Kinds of input that hold text: documents, vocabularies, models, questions, and what runs and clusters are told in."""

import gzip
import importlib
import json
import lzma
import random
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mutate import Kind, ReferenceRefuses
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForPreTraining
from transformers.utils import logging

from anybatch.comparison.folders import load
from anybatch.data import vocabulary
from anybatch.data.squad import read_questions
from anybatch.data.text import read_documents
from anybatch.evaluation.squad_score import read_predictions, score
from anybatch.models.bert import PretrainingModel
from anybatch.models.question_answering import question_answering_model
from anybatch.planner.clusters import find_cluster
from anybatch.recipes.recipe import from_json
from anybatch.runs import Run

# The definition of the official scores is the tests'.
sys.path.append(str(Path(__file__).parents[2] / "tests"))
official_scores = importlib.import_module("support.squad_oracle").official_scores

logging.set_verbosity_error()
logging.disable_progress_bar()

TOOLS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}
WORDS = ["the", "cat", "sat", "mat", "and", "saw", "seven", "small", "birds", "fly", "over", "old", "stone", "walls"]


def _sentences(number: int) -> str:
    draw = random.Random(number)
    return f"Number {number}: café – 中文. " + " ".join(draw.choices(WORDS, k=20)) + ".\n\nIts end."


def _content(suffix: str, count: int, first: int = 0) -> bytes:
    texts = [_sentences(number) for number in range(first, first + count)]
    if suffix == ".txt":
        return ("\n\n\n".join(texts) + "\n\n\n").encode()
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": _zstd}


def _write_text(suffix: str, packing: str, folder: Path) -> None:
    """Two streams, with padding where the format has it."""
    parts = [PACK[packing](_content(suffix, 12, first)) for first in (0, 12)]
    (folder / f"a{suffix}{packing}").write_bytes((bytes(8) if packing == ".xz" else b"").join(parts))


def _documents(folder: Path) -> list[str]:
    return list(read_documents([next(folder.iterdir())]))


def _reference_documents(folder: Path) -> list[str]:
    """Unpacked by the command line tools; lines as Python's text files have them."""
    path = next(folder.iterdir())
    content = path.read_bytes()
    if path.suffix in TOOLS:
        found = subprocess.run([TOOLS[path.suffix], "-dc", path], capture_output=True, check=False)
        # gzip warns, with 2, of zeros that it leaves out.
        if found.returncode:
            raise ReferenceRefuses(found.stderr.decode(errors="replace"))
        content = found.stdout
    text = content.decode().removeprefix("\ufeff")
    if ".jsonl" in path.name:
        return [json.loads(line)["text"] for line in text.split("\n") if line.strip()]
    lines = re.split("\r\n|\r|\n", text)
    paragraphs = re.split(r"\n\n\n+", "\n".join("" if line.isspace() else line for line in lines).strip("\n"))
    return [re.sub(r"\n\n+", "\n\n", paragraph) for paragraph in paragraphs if paragraph.strip()]


def _write_parquet(folder: Path) -> None:
    table = pa.table({"n": list(range(40)), "text": [_sentences(number) for number in range(40)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=16)


def _reference_parquet(folder: Path) -> list[str]:
    return list(pq.read_table(next(folder.iterdir()), columns=["text"])["text"].to_pylist())


LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
TOKENS = [
    *vocabulary.SPECIAL_TOKENS, *LETTERS, *("##" + letter for letter in LETTERS if letter.isalnum()), "hello", "world",
    "café", "cafe", "Hello", "中", "<S>",
]  # fmt: skip
TEXT = "Hello WORLD café cafe\u0301 CAFÉ 中文 ﬁne <S> x\u200by\u00a0z don't 12.5 [unused1]"
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip


def _write_words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_tokenizer(folder: Path) -> None:
    _write_words(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").unlink()


def _cut(folder: Path) -> list[int]:
    tokenizer = vocabulary.load(vocabulary.in_folder(folder))
    return list(tokenizer.encode(TEXT, add_special_tokens=False).ids)


def _reference_cut(folder: Path) -> list[int]:
    return list(AutoTokenizer.from_pretrained(folder, local_files_only=True).encode(TEXT, add_special_tokens=False))


def _write_model(folder: Path, **options: Any) -> None:
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(**SHAPE)).save_pretrained(folder, **options)


def _tensors(encoder: Any) -> dict[str, Any]:
    return {name: [list(value.shape), value.numpy().tobytes()] for name, value in encoder.state_dict().items()}


def _encoder(read: Callable[[Path], Any], folder: Path) -> dict[str, Any]:
    encoder = read(folder).bert.base_model
    encoder.pooler = None
    return _tensors(encoder)


def _reference_encoder(folder: Path) -> dict[str, Any]:
    """transformers' reading, once it is certain that it neither drew nor left out a tensor of the encoder."""
    model, info = AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, add_pooling_layer=False,
        output_loading_info=True,
    )  # fmt: skip
    held = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    if info["missing_keys"] or info["mismatched_keys"] or not {f"bert.{name}" for name in model.state_dict()} <= held:
        raise ReferenceRefuses(str(info))
    return _tensors(model)


def _article(number: int) -> dict[str, Any]:
    context = f"In town {number} the café\u0301 cat sat on “mat” {number} while rain fell on the green hills."
    qas: list[dict[str, Any]] = [
        {"id": f"{number}-{word}", "question": f"what about the {word}?", "is_impossible": False,
         "answers": [{"text": word, "answer_start": context.index(word)}]}
        for word in ("cat", "mat", "the green hills")
    ]  # fmt: skip
    qas.append({"id": f"{number}-none", "question": "who?", "is_impossible": True, "answers": []})
    return {"title": f"town {number}", "paragraphs": [{"context": context, "qas": qas}]}


def _write_questions(folder: Path) -> None:
    articles = [_article(number) for number in range(3)]
    (folder / "dev.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    answers = {"0-cat": "the Cat!", "0-mat": "", "1-cat": "a cat sat", "1-none": "", "2-none": "town", "2-mat": "mat 2"}
    (folder / "answers.json").write_text(json.dumps(answers))


def _scores(folder: Path) -> dict[str, float]:
    found = score(read_predictions(folder / "answers.json"), read_questions(folder / "dev.json"))
    return {name: round(value, 9) for name, value in found.items() if name in ("exact_match", "f1")}


def _reference_scores(folder: Path) -> dict[str, float]:
    value, answers = (json.loads((folder / name).read_text("utf-8-sig")) for name in ("dev.json", "answers.json"))
    return {name: round(value, 9) for name, value in official_scores(value, answers).items()}


def _write_run(folder: Path) -> None:
    from anybatch.recipes import find_recipe

    run = Run(folder)
    run.recipe_file.write_text(json.dumps(find_recipe("digits-lenet").model_dump(mode="json")))
    run.set_status("stopped", 3)
    events = [
        {"event": "train", "step": step, "examples": 8 * step, "elapsed_s": 0.1, "loss": 2 / step, "lr": 0.1,
         "phase": 0, "skipped": 0, "step_s": 0.1, "grad_norm": 1.0, "clipped": 0, "spike": 0}
        for step in range(1, 9)
    ]  # fmt: skip
    events.append(
        {"event": "eval", "step": 8, "examples": 64, "elapsed_s": 1.0, "loss": 1.5, "accuracy": {"label": 0.5}}
    )
    run.metrics_file.write_text("".join(json.dumps(event) + "\n" for event in events))


def _read_run(folder: Path) -> int:
    run = Run(folder)
    from_json(run.recipe())
    load([folder])
    return len(run.metrics())


def _write_cluster(folder: Path) -> None:
    (folder / "mine.toml").write_text(
        'like = "h100-node"\nprice = 2.1\nmost_devices = 64\n\n[between]\nbytes_per_s = 12.5e9\nlatency_s = 5e-6\n\n'
        "[mfu]\ntransformer = 0.42\n"
    )


def _read_cluster(folder: Path) -> list[Any]:
    found = find_cluster(str(folder / "mine.toml"))
    return [found.price, found.between.bytes_per_s, found.mfu["transformer"].share]


def _reference_cluster(folder: Path) -> list[Any]:
    """Of the three values, those that the file does not give are the shipped cluster's."""
    written = tomllib.loads((folder / "mine.toml").read_text())
    known = find_cluster(written["like"])
    between, mfu = written.get("between", {}), written.get("mfu", {})
    return [
        written.get("price", known.price),
        between.get("bytes_per_s", known.between.bytes_per_s),
        mfu.get("transformer", known.mfu["transformer"].share),
    ]


def _of_text() -> list[Kind]:
    packings = [packing for packing in PACK if not packing or shutil.which(TOOLS[packing])]
    return [
        Kind(f"text/{suffix[1:]}{packing}", partial(_write_text, suffix, packing), _documents, _reference_documents)
        for suffix in (".txt", ".jsonl")
        for packing in packings
    ]


KINDS = [
    *_of_text(),
    Kind("text/parquet", _write_parquet, _documents, _reference_parquet),
    Kind("tokenizer/vocab.txt", _write_words, _cut, _reference_cut),
    Kind("tokenizer/tokenizer.json", _write_tokenizer, _cut, _reference_cut),
    Kind(
        "model/questions",
        _write_model,
        partial(_encoder, partial(question_answering_model, seed=0)),
        _reference_encoder,
    ),
    Kind(
        "model/pretraining", _write_model, partial(_encoder, partial(PretrainingModel.load, seed=0)), _reference_encoder
    ),
    Kind(
        "model/shards",
        partial(_write_model, max_shard_size="20KB"),
        partial(_encoder, partial(question_answering_model, seed=0)),
        _reference_encoder,
    ),
    Kind("squad", _write_questions, _scores, _reference_scores),
    Kind("run", _write_run, _read_run, files=("*.jsonl", "*.json")),
    Kind("cluster", _write_cluster, _read_cluster, _reference_cluster),
]
