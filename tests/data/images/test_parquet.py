"""Parquet: classes go by their names, the column of images is known or asked for, nothing unpacks without end."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.odd_images import encoded, noise

from anybatch.data.images import parquet
from anybatch.data.images.decoding import decoded
from anybatch.data.images.finding import find_images
from anybatch.data.images.parquet import parquet_images
from anybatch.data.images.sets import ImageSet, Unreadable
from anybatch.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PNGS = [encoded(Image.fromarray(noise(6, 6, seed=seed)), "PNG") for seed in range(6)]
IMAGE = {"_type": "Image"}


def pictures(*numbers: int) -> Any:
    return pa.array([{"bytes": PNGS[number], "path": f"{number}.png"} for number in numbers])


def write(path: Path, columns: dict[str, Any], features: Any = None) -> Path:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def classes(*names: str) -> dict[str, Any]:
    return {"image": IMAGE, "label": {"names": list(names), "_type": "ClassLabel"}}


def named(images: ImageSet) -> list[str]:
    return [images.classes[label] for label in images.labels]


def test_each_file_numbers_its_own_names(tmp_path: Path) -> None:
    first = write(tmp_path / "train-0.parquet", {"image": pictures(0, 1), "label": [0, 1]}, classes("cat", "dog"))
    second = write(
        tmp_path / "train-1.parquet", {"image": pictures(2, 3, 4), "label": [0, 1, 2]}, classes("dog", "cat", "emu")
    )
    images = parquet_images([first, second])
    assert images.classes == ("cat", "dog", "emu")
    assert named(images) == ["cat", "dog", "dog", "cat", "emu"]
    pixels = [np.asarray(decoded(images.image(place), 3)).tobytes() for place in range(5)]
    assert pixels == [noise(6, 6, seed=seed).tobytes() for seed in range(5)]


def test_a_held_out_part_is_numbered_as_the_part_for_training(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": pictures(0, 1, 2), "label": [0, 1, 2]}, classes("cat", "dog", "emu"))
    write(tmp_path / "test.parquet", {"image": pictures(3, 4), "label": [0, 1]}, classes("emu", "cat"))
    _, held_out = find_images(tmp_path)
    assert held_out is not None
    assert held_out.labels.tolist() == [2, 0]
    assert held_out.notes == (f"{tmp_path}: 1 of 3 classes are not held out, such as dog",)
    assert held_out.name(0) == "test.parquet, row 0"


@pytest.mark.parametrize("flagged", [True, False])
def test_the_column_image_is_the_one_to_learn_from(tmp_path: Path, flagged: bool) -> None:
    columns = {"mask": pictures(4, 5), "image": pictures(0, 1), "label": [0, 1]}
    features = {"mask": IMAGE, **classes("cat", "dog")} if flagged else None
    images = parquet_images([write(tmp_path / "a.parquet", columns, features)])
    assert np.array_equal(decoded(images.image(1), 3), noise(6, 6, seed=1))
    (note,) = images.notes
    assert note.endswith("beside the column image it has images in mask, which are not used")


def test_a_column_of_another_name_is_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    columns = {"sound": pictures(5), "img": pictures(0), "target": [0]}
    features = {"sound": {"_type": "Audio"}, "img": IMAGE, "target": {"names": ["cat"], "_type": "ClassLabel"}}
    images = parquet_images([write(tmp_path / "a.parquet", columns, features)])
    assert np.array_equal(decoded(images.image(0), 3), noise(6, 6))
    assert images.classes == ("cat",)


def test_names_of_a_pandas_category_are_names(tmp_path: Path) -> None:
    columns = {"image": pictures(0, 1, 2), "label": pa.array(["dog", "cat", "dog"]).dictionary_encode()}
    assert named(parquet_images([write(tmp_path / "a.parquet", columns)])) == ["dog", "cat", "dog"]


def test_a_row_without_a_picture_is_unreadable(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": PNGS[0]}, None, {"bytes": None}], pa.struct([("bytes", pa.binary())]))
    images = parquet_images([write(tmp_path / "a.parquet", {"image": rows, "label": [0, 1, 1]})])
    for row in (1, 2):
        with pytest.raises(Unreadable, match="the row has no bytes"):
            images.image(row)


TWO = {"image": pictures(0, 1), "label": [0, 1]}
WRONG: dict[str, tuple[list[tuple[dict[str, Any], Any]], str]] = {
    "several columns of images": (
        [({"left": pictures(0), "right": pictures(1), "label": [0]}, None)],
        "has several columns of images, left, right; call the one to learn from image",
    ),
    "no column of labels": (
        [({"image": pictures(0, 1), "id": [17, 18]}, None)],
        "has no column label; it has image, id",
    ),
    "a label that no name is of": (
        [(TWO, classes("cat"))],
        "labels from 0 to 1; must be numbers from 0 on, below 1, as",
    ),
    "an unknown label": ([({"image": pictures(0, 1), "label": [-1, 0]}, classes("cat"))], "labels from -1 to 0"),
    "a name twice": ([(TWO, classes("cat", "cat"))], "no list of different names"),
    "names in some files only": ([(TWO, classes("cat", "dog")), (TWO, None)], "names of classes in some of its files"),
    "names and strings": (
        [(TWO, classes("cat", "dog")), ({"image": pictures(0), "label": ["cat"]}, None)],
        "names of classes in some of its files",
    ),
    "no label": ([({"image": pictures(0, 1), "label": [0, None]}, None)], "1 rows have no label"),
    "no row": ([({"image": pictures(0)[:0], "label": pa.array([], pa.int64())}, None)], "there is no image in it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    files, message = WRONG[name]
    paths = [write(tmp_path / f"{n}.parquet", columns, features) for n, (columns, features) in enumerate(files)]
    with pytest.raises(InputError, match=message) as caught:
        parquet_images(paths)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("noted", [b'{"info": {"feat\xc4res": {}}}', b"{", b"[" * 100_000])
def test_damaged_metadata_are_not_taken_for_none(tmp_path: Path, noted: bytes) -> None:
    pq.write_table(pa.table(TWO).replace_schema_metadata({b"huggingface": noted}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="its metadata 'huggingface' is damaged"):
        parquet_images([tmp_path / "a.parquet"])


def test_a_small_file_of_a_large_dictionary_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_UNSUSPICIOUS", 2**22)
    rows = pa.array([{"bytes": bytes(2**20)}] * 64, pa.struct([("bytes", pa.binary())]))
    path = write(tmp_path / "a.parquet", {"image": rows, "label": [0] * 64})
    assert path.stat().st_size < 2**17
    with pytest.raises(InputError, match="unpacks to more than 20 times its size"):
        parquet_images([path])
    monkeypatch.setattr(parquet, "_UNSUSPICIOUS", 2**30)
    monkeypatch.setattr(parquet, "half_of_memory", lambda: 2**22)
    with pytest.raises(InputError, match="more than half of the memory"):
        parquet_images([path])


def test_an_accepted_mutation_has_the_rows_that_pyarrow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "opened", bytes)
    sound = write(
        tmp_path / "a.parquet", {"image": pictures(*range(6)), "label": [0, 1] * 3}, classes("cat", "dog")
    ).read_bytes()
    draw, path = random.Random(0), tmp_path / "mutated.parquet"
    accepted = refused = 0
    for _ in range(120):
        data = bytearray(sound)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            images = parquet_images([path])
        except InputError:
            refused += 1
            continue
        accepted += 1
        table = pq.ParquetFile(path).read()
        # Also under a name that the mutation gave it.
        for place, row in enumerate(table.column(0).to_pylist()):
            if row and row["bytes"] is not None:
                assert images.image(place) == row["bytes"]
            else:
                with pytest.raises(Unreadable):
                    images.image(place)
    assert accepted > 10
    assert refused > 10
