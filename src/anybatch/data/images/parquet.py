"""Images in parquet files, as Hugging Face's `datasets` writes them: image{bytes, path}, label."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.decoding import opened
from anybatch.data.images.sets import MOST_CLASSES, Classes, Labels, Unreadable, numbered
from anybatch.environment import half_of_memory
from anybatch.errors import InputError

_ROWS = 16
# Images are already compressed: a file that unpacks to more than this multiple of its size, and to a gigabyte, is an
# attack on the memory.
_MOST_RATIO, _UNSUSPICIOUS = 20, 2**30


@dataclass(frozen=True)
class ParquetImages:
    """The rows of files, in order; the encoded images stay in memory."""

    files: str
    encoded: Any
    classes: Classes

    @classmethod
    def of(cls, files: Sequence[Path]) -> "ParquetImages":
        """Reads the images in `files`, which are one set in several parts.

        The column of images is `image`, or the only struct with `bytes`. The column of labels is `label`, `labels` or
        `fine_label`, or the only one that `datasets` marks as a ClassLabel. Labels are names, or numbers of the names
        in the metadata of their file: files may number the same names differently.

        Raises:
            InputError: pyarrow is not installed; or a file is damaged, has no such columns or several, has labels
                that are no classes, or the images take more than half of the memory.
        """
        try:
            import pyarrow as pa
            import pyarrow.compute as pc
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"{files[0]}: reading parquet needs pyarrow: pip install 'anybatch[parquet]'") from None
        encoded: list[Any] = []
        labels: list[Any] = []
        known: list[tuple[str, ...] | None] = []
        notes: list[str] = []
        room = half_of_memory()
        for file in files:
            try:
                with pq.ParquetFile(file) as reader:
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
            except InputError:
                raise
            # A hostile or damaged file can make a parser fail in any way.
            except Exception as error:
                why = " ".join(str(error).split())[:160] or type(error).__name__
                raise InputError(f"{file}: not readable as parquet: {why}") from None
            if not batches:
                continue
            table = pa.Table.from_batches(batches)
            encoded += [pc.struct_field(chunk, "bytes") for chunk in table[image].chunks]
            labels.append(_labels(table[label], file, label))
            known.append(_class_names(features, label, file) if labels[-1].dtype.kind == "i" else None)
            _check_range(labels[-1], known[-1], file)
        if not labels:
            raise InputError(f"{files[0]}: there is no image in it")
        if len({column.dtype.kind for column in labels}) > 1 or len({names is None for names in known}) > 1:
            raise InputError(f"{files[0].parent}: labels are names of classes in some of its files, numbers in others")
        try:
            column = pa.chunked_array(encoded)
        except pa.ArrowException as error:
            raise InputError(f"{files[0].parent}: its files have images of different types: {error}") from None
        numbers, names = _by_name(labels, known)
        where = files[0].name if len(files) == 1 else str(files[0].parent)
        return cls(where, column, Classes(numbers, names, tuple(notes)))

    def name(self, index: int) -> str:
        return f"{self.files}, row {index}"

    def image(self, index: int) -> Image.Image:
        data = self.encoded[index].as_py()
        if data is None:
            raise Unreadable("the row has no bytes")
        return opened(data)


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


def _labels(column: Any, file: Path, name: str) -> NDArray[Any]:
    """Returns int64[N] of numbers, or object[N] of names.

    Raises:
        InputError: they are neither, or a row has none.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise InputError(f"{file}: {column.null_count} rows have no label")
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy().astype(np.int64))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    raise InputError(
        f"{file}: column {name} is of type {column.type}; labels must be whole numbers, or names of classes"
    )


def _class_names(features: dict[str, Any], column: str, file: Path) -> tuple[str, ...] | None:
    """Returns the names that `datasets` keeps in the metadata of a ClassLabel."""
    names = features.get(column, {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise InputError(f"{file}: the classes of {column} in its metadata are no list of different names")
    return tuple(map(str, names))


def _check_range(labels: NDArray[Any], names: tuple[str, ...] | None, file: Path) -> None:
    count = MOST_CLASSES if names is None else len(names)
    if labels.dtype.kind == "i" and not 0 <= labels.min() <= labels.max() < count:
        raise InputError(
            f"{file}: labels from {labels.min()} to {labels.max()}; must be numbers from 0 on, below {count:,}"
            + ("" if names is None else ", as its metadata names so many classes")
        )


def _by_name(labels: Sequence[NDArray[Any]], known: Sequence[tuple[str, ...] | None]) -> tuple[Labels, tuple[str, ...]]:
    """Numbers all labels by one list of names: that of the first file, then what other files add."""
    if labels[0].dtype.kind == "O":
        return numbered([name for column in labels for name in column])
    if known[0] is None:
        numbers = np.concatenate(labels)
        return numbers, tuple(map(str, range(int(numbers.max()) + 1)))
    names = tuple(dict.fromkeys(name for own in known for name in own or ()))
    places = {name: place for place, name in enumerate(names)}
    return np.concatenate(
        [np.array([places[name] for name in own or ()])[column] for column, own in zip(labels, known, strict=True)]
    ), names
