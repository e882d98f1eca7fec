"""Runs on images from beginning to end: odd files are read or named, and a killed run goes on bit for bit."""

import gzip
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.odd_images import encoded, noise, write_odd_tree

from anybatch.data.images.idx import digits
from anybatch.errors import InputError
from anybatch.recipes import change, evaluate_run, find_recipe, train_recipe
from anybatch.runs import Run

SHORT_DIGITS = ["reference.num_epochs=2", "reference.lr=0.02", "engine.num_evals=2", "engine.checkpoint_every_steps=40"]
SMALL_TREE = [
    "model.architecture=resnet20",
    "model.batch_norm_group=8",
    "phases.0.image_size=32",
    "phases.0.batch_size=16",
    "reference.batch_size=16",
    "reference.num_epochs=3",
    "reference.warmup_ratio=0.1",
    "engine.micro_batch_size=8",
    "engine.num_evals=2",
]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("digits") / "run")
    train_recipe(change(find_recipe("digits-lenet"), SHORT_DIGITS), run.path)
    return run


def test_digits_are_learned_without_a_file(digits_run: Run) -> None:
    result = digits_run.result()
    assert result["final"]["top1"] > 0.8
    assert result["final"]["top5"] > result["final"]["top1"]
    assert result["final"]["skipped_images"] == 0
    assert result["classes"] == 10
    evals = digits_run.metrics("eval")
    assert evals[-1]["accuracy"] == {
        "label": pytest.approx(result["final"]["top1"]),
        "label_top5": pytest.approx(result["final"]["top5"]),
    }
    assert set(evals[-1]["losses"]) == {"label"}
    assert evals[-1]["loss"] == pytest.approx(result["final"]["loss"], rel=1e-5)


def test_the_mistakes_can_be_looked_at(digits_run: Run) -> None:
    found = json.loads((digits_run.path / "classification.json").read_text())
    final = digits_run.result()["final"]
    count = sum(number for _, _, number in found["confusion"])
    assert count in (359, 360)
    assert sum(number for true, said, number in found["confusion"] if true == said) / count == pytest.approx(
        final["top1"]
    )
    losses = [item["loss"] for item in found["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 24
    assert found["worst"][0]["predicted"] != found["worst"][0]["label"]
    assert found["worst"][0]["png"].startswith("iVBOR")


def test_a_finished_run_is_scored_again(digits_run: Run) -> None:
    final = digits_run.result()["final"]
    assert evaluate_run(digits_run.path) == {name: final[name] for name in ("loss", "top1", "top5")}


def test_odd_images_are_read_or_named_and_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    readable, unreadable = write_odd_tree(tmp_path / "tree")
    changes = [*SMALL_TREE, f"data.path={tmp_path / 'tree'}", "engine.checkpoint_every_steps=1", "engine.keep_last=9"]
    recipe = change(find_recipe("resnet50-paper"), changes)
    run = Run(tmp_path / "run")
    result = train_recipe(recipe, run.path)
    assert result["num_steps"] == 7
    lines = (run.path / "skipped-images.txt").read_text().splitlines()
    train = [line for line in lines if "tree/train/" in line and "bad-" in line]
    assert len(train) == unreadable
    assert len({line.split(":")[0] for line in train}) == unreadable
    notes = ("notes.txt", "without images", "link-to-a-folder")
    assert not [line for line in lines if "bad-" not in line and not any(note in line for note in notes)]
    assert result["final"]["skipped_images"] == len(lines)
    assert sum(n for *_, n in json.loads((run.path / "classification.json").read_text())["confusion"]) == readable - 1

    shutil.copytree(run.path, tmp_path / "killed")
    killed = Run(tmp_path / "killed")
    for name in ("result.json", "classification.json"):
        (killed.path / name).unlink()
    for step in (3, 4, 5, 6, 7):
        shutil.rmtree(killed.checkpoints / f"step-{step:08d}")
    train_recipe(recipe, killed.path, resume=True)
    first, second = (load_file(each.model / "model.safetensors") for each in (run, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (killed.path / "skipped-images.txt").read_text().splitlines() == lines


def test_mixed_and_grey_images_train_too(tmp_path: Path) -> None:
    write_odd_tree(tmp_path / "tree")
    recipe = change(
        find_recipe("resnet50-paper"),
        [*SMALL_TREE, f"data.path={tmp_path / 'tree'}", "data.mixup=0.2", "data.cutmix=1.0", "data.mean=[0.5]",
         "data.std=[0.25]", "reference.num_epochs=2", "data.cutout=8"],
    )  # fmt: skip
    result = train_recipe(recipe, tmp_path / "run")
    assert result["skipped_steps"] == 0
    assert all(event["loss"] > 0 for event in Run(tmp_path / "run").metrics("train"))


def test_cifar10_in_parquet_is_decoded_once_and_learned_from(shared_data: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    for part, count in (("train", 512), ("test", 200)):
        rows = pq.read_table(shared_data / "cifar10" / f"{part}.parquet").slice(0, count)
        pq.write_table(rows, tmp_path / "data" / f"{part}.parquet")
    recipe = change(
        find_recipe("cifar10-resnet20"),
        [f"data.path={tmp_path / 'data'}", "reference.num_examples=512", "engine.num_evals=1"],
    )
    result = train_recipe(recipe, tmp_path / "run")
    assert result["classes"] == 10
    assert result["num_steps"] == 4
    found = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert found["classes"][:2] == ["airplane", "automobile"]
    assert sum(number for *_, number in found["confusion"]) == 200


def test_mnist_is_read_from_idx_files_and_learned(tmp_path: Path) -> None:
    # Digits enlarged threefold and framed stand in for MNIST's, in files as MNIST's are called.
    small = digits()
    pixels = np.stack([np.asarray(small.image(number)) for number in range(len(small.labels))])
    large = np.pad(pixels.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    for part, chosen in (("train", slice(300)), ("t10k", slice(300, 400))):
        for kind, values in (("images-idx3", large[chosen]), ("labels-idx1", small.labels[chosen])):
            data = values.astype(np.uint8)
            header = struct.pack(f">{1 + data.ndim}I", 0x800 + data.ndim, *data.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + data.tobytes()))
    settings = ["reference.batch_size=32", "phases.0.batch_size=32", "reference.num_epochs=8", "engine.num_evals=1"]
    result = train_recipe(change(find_recipe("mnist-lenet"), [*settings, f"data.path={tmp_path}"]), tmp_path / "run")
    assert result["num_examples"] == 75 * 32
    assert result["final"]["top1"] > 0.7
    assert sum(n for *_, n in json.loads((tmp_path / "run" / "classification.json").read_text())["confusion"]) == 100


def write_tree(root: Path, damaged: str) -> Path:
    """Two classes of eight pictures for training and two held out; those of the part or class `damaged` are rubbish."""
    for part, count in (("train", 8), ("val", 2)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                whole = encoded(Image.fromarray(noise(12, 12, seed=number)), "PNG")
                data = b"rubbish" if damaged in (part, name) else whole
                (root / part / name / f"{number}.png").write_bytes(data)
    return root


SMALL = [
    "model.width=4", "model.batch_norm_group=8", "reference.batch_size=8", "phases.0.batch_size=8",
    "reference.num_epochs=1", "engine.num_evals=1",
]  # fmt: skip


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_without_one_readable_image_ends_the_run_where_it_begins(part: str, tmp_path: Path) -> None:
    """Also where images are decoded as they are needed, as ImageNet's are."""
    data = write_tree(tmp_path / "data", damaged=part)
    recipe = change(find_recipe("cifar10-davidnet"), [*SMALL, f"data.path={data}", "data.crop=resized"])
    with pytest.raises(InputError, match=rf"{part}/a/0.png: cannot be read \(.+\), and neither can any of \d+ images"):
        train_recipe(recipe, tmp_path / "run")


def test_too_little_data_says_what_could_not_be_read(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", damaged="b")
    settings = [*SMALL, f"data.path={data}", "phases.0.batch_size=16", "reference.num_epochs=8"]
    with pytest.raises(InputError, match=r"which has 8 examples.*; 8 were left out, such as .*b/0.png: not an image"):
        train_recipe(change(find_recipe("cifar10-davidnet"), settings), tmp_path / "run")


def test_one_class_is_nothing_to_learn_and_a_far_label_is_noted(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    settings = ["reference.batch_size=8", "phases.0.batch_size=8", "reference.num_epochs=1", f"data.path={tmp_path}"]
    for labels in (np.zeros(40, dtype=np.uint8), np.array([0, 1] * 19 + [1, 30], dtype=np.uint8)):
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
            (tmp_path / f"train-{kind}-ubyte").write_bytes(header + values.tobytes())
        recipe = change(find_recipe("mnist-lenet"), settings)
        if labels.max() == 0:
            with pytest.raises(InputError, match="one class, '0': there is nothing to tell apart"):
                train_recipe(recipe, tmp_path / "run")
            continue
        train_recipe(recipe, tmp_path / "run")
        noted = (tmp_path / "run" / "skipped-images.txt").read_text()
        assert "31 classes, 2" in noted
        assert "without an image to train on; the recipe was made for 10" in noted


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mnist-lenet", [], r"data\.path is not set"),
        ("digits-lenet", ["data.path=nowhere"], "no such folder"),
        ("digits-lenet", ["data.fold=5"], r"data\.fold = 5: must be at least 0 and below data\.folds = 5"),
        ("digits-lenet", ["phases.0.image_size=10"], "LeNet halves it twice"),
        ("digits-lenet", ["model.architecture=resnet20"], r"model\.batch_norm_group is not set"),
        ("digits-lenet", ["model.batch_norm_group=8"], "lenet has no BatchNorm"),
        ("digits-lenet", ["data.crop=padded", "data.padding=8"], r"data\.padding = 8"),
        ("digits-lenet", ["data.cutout=9"], r"data\.cutout = 9"),
        ("digits-lenet", ["phases.0.batch_size=1438"], "larger than the data, which has 1437"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    name: str, changes: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train_recipe(change(find_recipe(name), changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
