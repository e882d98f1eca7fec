"""Each layout that people keep images in is found, read, and refused in one line where it is wrong."""

import gzip
import io
import json
import os
import random
import struct
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.odd_images import encoded, noise, write_odd_tree

from anybatch.data.images.decoding import decoded
from anybatch.data.images.finding import find_images
from anybatch.data.images.sets import ImageSet
from anybatch.errors import InputError

PNGS = [encoded(Image.fromarray(noise(6, 6, seed=seed)), "PNG") for seed in range(6)]


def content(images: ImageSet) -> list[tuple[str, bytes]]:
    """(class, pixels) of every image."""
    return [
        (images.classes[label], decoded(images.image(place), 3).tobytes()) for place, label in enumerate(images.labels)
    ]


def expected(names: list[str]) -> list[tuple[str, bytes]]:
    return [(name, noise(6, 6, seed=seed).tobytes()) for seed, name in enumerate(names)]


def write_idx(path: Path, values: np.ndarray) -> None:
    data = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_parquet(path: Path, labels: list[int], names: list[str] | None = None) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PNGS[: len(labels)])]
    table = pa.table({"image": rows, "label": pa.array(labels, pa.int64())})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def test_folders(tmp_path: Path) -> None:
    readable, unreadable = write_odd_tree(tmp_path)
    # A label file that other programs follow, and an image of no class; a hidden file is nobody's.
    for name in ("metadata.csv", "stray.png", ".hidden.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert training.classes == held_out.classes == ("cat", "dog", "empty")
    assert len(training.labels) == len(held_out.labels) + 3 == readable + unreadable
    assert [note.rsplit("/", 1)[-1] for note in training.notes] == [
        "empty: a class without images",
        "metadata.csv: in no folder of a class",
        "stray.png: in no folder of a class",
        "notes.txt: not named like an image",
        "link-to-a-folder: a link to a folder, which is not followed",
    ]
    names = [Path(training.name(index)) for index in range(readable + unreadable)]
    # What is no file, and the one whose name is no text, which is written out.
    assert {path.name for path in names if not path.is_file()} == {
        "bad-link.jpg",
        "bad-pipe.jpg",
        r"latin-1-\xe9.jpg",
    }


def test_one_tree_of_classes_is_one_set(tmp_path: Path) -> None:
    for seed, name in enumerate(("b", "a", "b")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{seed}.png").write_bytes(PNGS[seed])
    training, held_out = find_images(tmp_path)
    assert held_out is None
    assert sorted(content(training)) == sorted(expected(["b", "a", "b"]))


def test_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [1, 0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [0], ["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", [0, 1], ["cat", "dog"])
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert content(training) == [*expected(["dog", "cat", "dog"]), *expected(["cat"])]
    assert content(held_out) == expected(["cat", "dog"])


def test_parquet_without_names_goes_by_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 2])
    write_parquet(tmp_path / "test.parquet", [1])
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert training.classes == ("0", "1", "2")
    assert held_out.classes == ("0", "1", "2")
    assert held_out.labels.tolist() == [1]
    assert held_out.notes == (f"{tmp_path}: 2 of 3 classes are not held out, such as 0",)


def test_parquet_with_names_of_classes_for_labels(tmp_path: Path) -> None:
    write_labels(tmp_path / "train.parquet", ["dog", "cat", "dog"])
    write_labels(tmp_path / "test.parquet", ["cat", "dog"])
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert content(training) == expected(["dog", "cat", "dog"])
    assert content(held_out) == expected(["cat", "dog"])


def test_a_part_is_a_word_anywhere_in_a_name(tmp_path: Path) -> None:
    for name, labels in (("cifar10-train-0", [1, 0, 1]), ("cifar10-test-0", [0, 1])):
        write_parquet(tmp_path / f"{name}.parquet", labels)
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert (len(training.labels), len(held_out.labels)) == (3, 2)
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, count in (("imagenet1k-train-0000", 3), ("imagenet1k-validation-00", 2)):
        write_tar(shards / f"{name}.tar", {f"{c}/{n}.png": PNGS[n] for n, c in enumerate("aba"[:count])})
    training, held_out = find_images(shards)
    assert held_out is not None
    assert (len(training.labels), len(held_out.labels)) == (3, 2)
    for part, name in (("training", "cat"), ("testing", "cat")):
        (tmp_path / "tree" / part / name).mkdir(parents=True)
        (tmp_path / "tree" / part / name / "0.png").write_bytes(PNGS[0])
    training, held_out = find_images(tmp_path / "tree")
    assert held_out is not None
    assert training.classes == held_out.classes == ("cat",)


def test_tar_shards(tmp_path: Path) -> None:
    numbered = {f"{n}.{end}": data for n in range(3) for end, data in (("png", PNGS[n]), ("cls", str(n % 2).encode()))}
    write_tar(tmp_path / "train-0.tar", {**numbered, "readme.md": b"x"})
    write_tar(tmp_path / "val-0.tar", {"a/0.png": PNGS[0], "a/0.cls": b"0\n", "1.png": PNGS[1], "1.cls": b"1"})
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert content(training) == expected(["0", "1", "0"])
    assert content(held_out) == expected(["0", "1"])
    assert training.notes[0].endswith("readme.md: not named like an image")


def test_tar_shards_of_folders(tmp_path: Path) -> None:
    write_tar(tmp_path / "one.tar", {"x/dog/0.png": PNGS[0], "x/cat/1.png": PNGS[1]})
    assert content(find_images(tmp_path)[0]) == expected(["dog", "cat"])


@pytest.mark.parametrize(("training", "held_out"), [("Train", "Val"), ("TRAIN", "TEST"), ("Training", "Validation")])
def test_parts_may_be_in_capitals(tmp_path: Path, training: str, held_out: str) -> None:
    for part in (training, held_out):
        for seed, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.png").write_bytes(PNGS[seed])
    for found in find_images(tmp_path):
        assert found is not None
        assert content(found) == expected(["cat", "dog"])


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("Train", "train", "val"), "Train and train are of one part"),
        (("train", "training", "val"), "train and training are of one part"),
        (("train_images", "Test-Images"), "train_images, Test-Images: called like a part of the images"),
        (("val", "cat"), "val: called like a part of the images"),
    ],
)
def test_folders_called_like_parts_are_no_classes(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for name in folders:
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "0.png").write_bytes(PNGS[0])
    with pytest.raises(InputError, match=message):
        find_images(tmp_path)


def test_a_class_may_have_a_name_that_only_begins_like_a_part(tmp_path: Path) -> None:
    for seed, name in enumerate(("evaluation", "trainer", "model train")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(PNGS[seed])
    assert find_images(tmp_path)[0].classes == ("evaluation", "model train", "trainer")


def test_what_is_of_no_part_that_is_read_is_noted(tmp_path: Path) -> None:
    for part in ("train", "val", "test", "more"):
        (tmp_path / "folders" / part / "cat").mkdir(parents=True)
        (tmp_path / "folders" / part / "cat" / "0.png").write_bytes(PNGS[0])
        if part != "more":
            write_tar(tmp_path / f"{part}.tar", {"cat/0.png": PNGS[0]})
    for path, left_out in ((tmp_path / "folders", ("more", "test")), (tmp_path, ("test.tar",))):
        training, held_out = find_images(path)
        assert held_out is not None
        assert training.notes == tuple(
            f"{path / name}: of neither part that is read, and left out" for name in left_out
        )
        assert held_out.name(0).count("val") == 1


def test_classes_that_are_not_held_out_are_noted(tmp_path: Path) -> None:
    for place, name in enumerate(("train/cat", "train/dog", "train/emu", "val/emu")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(PNGS[place])
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert held_out.classes == training.classes
    assert content(held_out) == [("emu", noise(6, 6, seed=3).tobytes())]
    assert held_out.notes == (f"{tmp_path}: 2 of 3 classes are not held out, such as cat",)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["train.tar", "train.parquet", "train-images-idx3-ubyte"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="called like a file of images, but is none"):
        find_images(tmp_path)


@pytest.mark.parametrize("end", [".tar.gz", ".tgz", ".tar.zst"])
def test_a_packed_tar_is_refused_also_beside_others(tmp_path: Path, end: str) -> None:
    write_tar(tmp_path / "train-0.tar", {"a/0.png": PNGS[0]})
    (tmp_path / f"train-1{end}").write_bytes(b"")
    with pytest.raises(InputError, match=f"train-1{end}: unpack it to a .tar"):
        find_images(tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx(tmp_path: Path, end: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    for part, count in (("train", 4), ("t10k", 2)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{end}", pixels[:count])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{end}", np.array([0, 1, 1, 0][:count], dtype=np.uint8))
    training, held_out = find_images(tmp_path)
    assert held_out is not None
    assert training.labels.tolist() == [0, 1, 1, 0]
    assert np.array_equal(np.asarray(held_out.image(1)), pixels[1])


@pytest.mark.timeout(30)
def test_a_packed_idx_file_is_unpacked_no_further_than_its_header_says(tmp_path: Path) -> None:
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(10, dtype=np.uint8))
    with gzip.open(images, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4I", 0x803, 10, 28, 28))
        for _ in range(300):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 7,840 bytes of content; a shape of"):
        find_images(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    images.write_bytes(gzip.compress(struct.pack(">4I", 0x803, *[2**32 - 1] * 3)))
    with pytest.raises(InputError, match=r"a shape of \(4294967295, 4294967295, 4294967295\) needs"):
        find_images(tmp_path)


def test_a_mutated_idx_file_is_what_its_header_says_or_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    images = tmp_path / "train-images-idx3-ubyte"
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 1, 0], dtype=np.uint8))
    write_idx(images, pixels)
    sound = images.read_bytes()
    accepted = refused = 0
    for _ in range(100):
        data = bytearray(sound)
        data[draw.randrange(len(data) if draw.random() < 0.5 else 16)] ^= 1 << draw.randrange(8)
        if draw.random() < 0.1:
            del data[draw.randrange(len(data)) :]
        images.write_bytes(data)
        try:
            found = find_images(tmp_path)[0]
        except InputError:
            refused += 1
            continue
        accepted += 1
        expected = np.frombuffer(data, np.uint8, offset=16).reshape(4, 5, 5)
        assert all(np.array_equal(found.image(place), expected[place]) for place in range(4))
    assert accepted > 10
    assert refused > 10


def damaged_idx(path: Path) -> None:
    write_idx(path / "train-images-idx3-ubyte", np.zeros((4, 5, 5), dtype=np.uint8))
    write_idx(path / "train-labels-idx1-ubyte", np.zeros(3, dtype=np.uint8))


def short_idx(path: Path) -> None:
    damaged_idx(path)
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def no_idx(path: Path) -> None:
    damaged_idx(path)
    (path / "train-images-idx3-ubyte").write_bytes(b"GIF89a")


def flat_idx(path: Path) -> None:
    write_idx(path / "train-images-idx3-ubyte", np.zeros((3, 0, 5), dtype=np.uint8))
    write_idx(path / "train-labels-idx1-ubyte", np.zeros(3, dtype=np.uint8))


def two_idx(path: Path) -> None:
    for name in ("digits", "letters"):
        write_idx(path / f"{name}-train-images-idx3-ubyte", np.zeros((3, 5, 5), dtype=np.uint8))


def looped_class(path: Path) -> None:
    (path / "train" / "a").mkdir(parents=True)
    (path / "train" / "a" / "0.png").write_bytes(PNGS[0])
    (path / "train" / "z").symlink_to("..")


def write_labels(path: Path, labels: list[Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PNGS[: len(labels)])]
    pq.write_table(pa.table({"image": rows, "label": labels}), path)


def mixed_labels(path: Path) -> None:
    write_labels(path / "train-0.parquet", [0, 1])
    write_labels(path / "train-1.parquet", ["cat", "dog"])


def other_classes(path: Path) -> None:
    for part, name in (("train", "cat"), ("val", "dog")):
        (path / part / name).mkdir(parents=True)
        (path / part / name / "0.png").write_bytes(PNGS[0])


WRONG = {
    "an empty folder": (lambda path: None, "no images in a layout that is known"),
    "labels of other images": (damaged_idx, "has 4 images, train-labels-idx1-ubyte has 3 labels"),
    "an IDX file cut short": (short_idx, "99 bytes of content; a shape of"),
    "no IDX file": (no_idx, "not an IDX file"),
    "images without labels": (
        lambda path: (path / "train-images-idx3-ubyte").write_bytes(b"GIF89a"),
        "its labels, train-labels-idx1-ubyte, are missing",
    ),
    "pictures of no size": (flat_idx, "there is no image in it"),
    "two IDX files of one part": (two_idx, "are of one part"),
    "a file of no part": (
        lambda path: [write_tar(path / f"{name}.tar", {"a/0.png": PNGS[0]}) for name in ("train-0", "extra")],
        "extra.tar is neither for training nor held out",
    ),
    "a class that links to what it lies in": (looped_class, "links to a folder that it lies in itself"),
    "labels that are no whole numbers": (
        lambda path: write_labels(path / "train.parquet", [0.5, 1.7]),
        "column label is of type double; labels must be whole numbers",
    ),
    "labels that are lists": (lambda path: write_labels(path / "train.parquet", [[0], [1]]), "is of type list"),
    "a label far too large": (
        lambda path: write_labels(path / "train.parquet", [0, 10**12]),
        "labels from 0 to 1000000000000; must be numbers from 0 on, below 1,000,000",
    ),
    "labels of two kinds": (mixed_labels, "labels are names of classes in some of its files, numbers in others"),
    "no parquet": (lambda path: (path / "train.parquet").write_bytes(b"PAR1"), "no readable parquet"),
    "no tar": (lambda path: (path / "train.tar").write_bytes(b"x" * 2000), "not an uncompressed tar file"),
    "no class": (lambda path: write_tar(path / "a.tar", {"0.png": PNGS[0]}), "has no class"),
    "a class that is no number": (
        lambda path: write_tar(path / "a.tar", {"0.png": PNGS[0], "0.cls": b"cat"}),
        "b'cat' is not the number of a class",
    ),
    "folders without images": (lambda path: (path / "cat").mkdir(), "no image in any of its 1 folders"),
    "other classes": (other_classes, "has? other classes|have other classes"),
    "no training part": (
        lambda path: write_parquet(path / "test.parquet", [0]),
        "nothing whose name has train in it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    make, message = WRONG[name]
    if "parquet" in name or "training part" in name:
        pytest.importorskip("pyarrow")
    make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        find_images(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(InputError, match="is a file; name the folder"):
        find_images(tmp_path / "a.tar")
