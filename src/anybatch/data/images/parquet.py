"""Images in parquet files, as Hugging Face's `datasets` writes them: image{bytes, path}, label."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anybatch.data.images.decoding import opened
from anybatch.data.images.sets import MOST_CLASSES, ImageSet, Labels, Unreadable, numbered, renumbered
from anybatch.data.packed import pyarrow
from anybatch.environment import half_of_memory
from anybatch.errors import InputError, readable

_ROWS = 16
# Images are already compressed: a file that unpacks to more than this multiple of its size, and to a gigabyte, is an
# attack on the memory.
_MOST_RATIO, _UNSUSPICIOUS = 20, 2**30

# What the labels of a file are, their numbers, and the names of these.
Labeled = tuple[str, Labels, tuple[str, ...]]


def parquet_images(files: Sequence[Path]) -> ImageSet:
    """Reads the images in `files`, which are one set in several parts; the encoded images stay in memory.

    The column of images is `image`, or the only struct with `bytes`. The column of labels is `label`, `labels` or
    `fine_label`, or the only one that `datasets` marks as a ClassLabel. Labels are names, or numbers of the names in
    the metadata of their file: files may number the same names differently.

    Raises:
        InputError: pyarrow is not installed; or a file is damaged, has no such columns or several, has labels that
            are no classes, or the images take more than half of the memory.
    """
    pa = pyarrow(files[0])
    chunks: list[Any] = []
    labeled: list[Labeled] = []
    notes: list[str] = []
    room = half_of_memory()
    for file in files:
        with readable(file, "parquet"), pa.parquet.ParquetFile(file) as reader:
            schema = reader.schema_arrow
            features = _features(schema, file)
            image = _image_column(schema, features, file, notes)
            label = _label_column(schema, features, file)
            batches = []
            most = max(_UNSUSPICIOUS, _MOST_RATIO * file.stat().st_size)
            # A few rows at a time: a dictionary can turn a small file into gigabytes.
            for batch in reader.iter_batches(batch_size=_ROWS, columns=[image, label]):
                batches.append(batch.select([image, label]))
                room -= batch.nbytes
                most -= batch.nbytes
                if most < 0:
                    raise InputError(f"{file}: unpacks to more than {_MOST_RATIO} times its size and 1 GiB")
                if room < 0:
                    raise InputError(f"{file}: its images take more than half of the memory; write tar shards")
        if batches:
            table = pa.Table.from_batches(batches)
            chunks += [pa.compute.struct_field(chunk, "bytes") for chunk in table[image].chunks]
            labeled.append(_labeled(table[label], file, label, features.get(label, {}).get("names")))
    if not labeled:
        raise InputError(f"{files[0]}: there is no image in it")
    if len({kind for kind, _, _ in labeled}) > 1:
        raise InputError(f"{files[0].parent}: labels are names of classes in some of its files, numbers in others")
    try:
        encoded = pa.chunked_array(chunks)
    except pa.ArrowException as error:
        raise InputError(f"{files[0].parent}: its files have images of different types: {error}") from None
    # By the names of the first file, then what other files add; names without numbers are sorted.
    names = tuple(dict.fromkeys(name for _, _, own in labeled for name in own))
    names = tuple(sorted(names)) if labeled[0][0] == "names" else names
    labels = np.concatenate([renumbered(numbers, own, names) for _, numbers, own in labeled])
    where = files[0].name if len(files) == 1 else str(files[0].parent)

    def image_of(index: int) -> Image.Image:
        data = encoded[index].as_py()
        if data is None:
            raise Unreadable("the row has no bytes")
        return opened(data)

    return ImageSet(labels, names, lambda index: f"{where}, row {index}", image_of, tuple(notes))


def _features(schema: Any, file: Path) -> dict[str, Any]:
    """Returns the notes of `datasets` about each column; none if another program wrote the file."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))["info"]["features"]
    except (TypeError, KeyError):
        return {}
    except (ValueError, RecursionError):
        # Without the names of its classes, numbers with another meaning would be taken for the same.
        raise InputError(
            f"{file}: its metadata 'huggingface' is damaged: it is no JSON; write the file again"
        ) from None
    return (
        {name: kind for name, kind in features.items() if isinstance(kind, dict)} if isinstance(features, dict) else {}
    )


def _image_column(schema: Any, features: dict[str, Any], file: Path, notes: list[str]) -> str:
    found = [
        str(column.name)
        for column in schema
        if "bytes" in [column.type.field(place).name for place in range(column.type.num_fields)]
        and features.get(column.name, {}).get("_type", "Image") == "Image"
    ]
    if not found:
        raise InputError(f"{file}: has no column of images, a struct with bytes; it has {', '.join(schema.names)}")
    if len(found) > 1 and found.count("image") != 1:
        raise InputError(f"{file}: has several columns of images, {', '.join(found)}; call the one to learn from image")
    chosen = "image" if len(found) > 1 else found[0]
    if others := [name for name in found if name != chosen]:
        notes.append(f"{file}: beside the column {chosen} it has images in {', '.join(others)}, which are not used")
    return chosen


def _label_column(schema: Any, features: dict[str, Any], file: Path) -> str:
    for name in ("label", "labels", "fine_label"):
        if name in schema.names:
            return name
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if len(classes) == 1:
        return str(classes[0])
    raise InputError(
        f"{file}: has no column label; it has {', '.join(schema.names)}; call the one of the classes label"
    )


def _labeled(column: Any, file: Path, name: str, described: Any) -> Labeled:
    """Returns the labels in a column; `described` are the names that `datasets` keeps in the metadata of a ClassLabel.

    Raises:
        InputError: they are neither numbers nor names, a row has none, or a number has no name.
    """
    pa = pyarrow(file)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise InputError(f"{file}: {column.null_count} rows have no label")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return "names", *numbered(column.to_pylist())
    if not pa.types.is_integer(column.type):
        raise InputError(
            f"{file}: column {name} is of type {column.type}; labels must be whole numbers, or names of classes"
        )
    if described is not None and (not isinstance(described, list) or len(set(map(str, described))) != len(described)):
        raise InputError(f"{file}: the classes of {name} in its metadata are no list of different names")
    count = MOST_CLASSES if described is None else len(described)
    numbers = np.asarray(column.to_numpy().astype(np.int64))
    if not 0 <= numbers.min() <= numbers.max() < count:
        raise InputError(
            f"{file}: labels from {numbers.min()} to {numbers.max()}; must be numbers from 0 on, below {count:,}"
            + ("" if described is None else ", as its metadata names so many classes")
        )
    if described is None:
        return "numbers", *numbered(numbers.tolist())
    return "numbers of names", numbers, tuple(map(str, described))
