"""Images in parquet files, as Hugging Face's `datasets` writes them: image{bytes, path}, label."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anybatch.data.images.decoding import opened
from anybatch.data.images.sets import MOST_CLASSES, Classes, Unreadable, numbered
from anybatch.errors import InputError


@dataclass(frozen=True)
class ParquetImages:
    """The rows of some files, in order; the encoded images stay in memory."""

    files: str
    encoded: Any
    classes: Classes

    @classmethod
    def of(cls, files: Sequence[Path]) -> "ParquetImages":
        """The images in `files`, which are one set in several parts.

        The column of images is the one whose rows have `bytes`; that of labels is `label`, or the only one of integers
        (`fine_label` before `coarse_label`). Names of classes come from the metadata, where there are some.

        Raises:
            InputError: pyarrow is not installed; or a file is damaged, or has no such columns.
        """
        try:
            import pyarrow as pa
            import pyarrow.compute as pc
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"{files[0]}: reading parquet needs pyarrow: pip install 'anybatch[parquet]'") from None
        tables = []
        for file in files:
            try:
                schema = pq.read_schema(file)
                columns = _image_column(schema, file), _label_column(schema, file)
                table = pq.read_table(file, columns=list(columns)).rename_columns(["image", "label"])
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{file}: not readable as parquet: {' '.join(str(error).split())[:160]}") from None
            tables.append(table)
            kind = table["label"].type
            if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(
                    f"{file}: column {columns[1]} is of type {kind}; labels must be whole numbers, or names of classes"
                )
        try:
            whole = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            why = " ".join(str(error).split())[:160]
            raise InputError(f"{files[0].parent}: its files have columns of different types: {why}") from None
        if whole["label"].null_count:
            raise InputError(f"{files[0]}: {whole['label'].null_count} rows have no label")
        if not len(whole):
            raise InputError(f"{files[0]}: there is no image in it")
        if pa.types.is_integer(whole["label"].type):
            labels = whole["label"].to_numpy().astype(np.int64)
            if labels.min() < 0 or labels.max() >= MOST_CLASSES:
                raise InputError(
                    f"{files[0]}: labels from {labels.min()} to {labels.max()}; must be numbers from 0 on, below "
                    f"{MOST_CLASSES:,}"
                )
            names = _class_names(schema, columns[1], int(labels.max()) + 1)
        else:
            labels, names = numbered(whole["label"].to_pylist())
        encoded = pc.struct_field(whole["image"], "bytes")
        return cls(files[0].name if len(files) == 1 else str(files[0].parent), encoded, Classes(labels, names))

    def name(self, index: int) -> str:
        return f"{self.files}, row {index}"

    def image(self, index: int) -> Image.Image:
        data = self.encoded[index].as_py()
        if data is None:
            raise Unreadable("the row has no bytes")
        return opened(data)


def _image_column(schema: Any, file: Path) -> str:
    for field in schema:
        if field.type.num_fields and any(child.name == "bytes" for child in field.flatten()):
            return str(field.name)
        if field.type.num_fields and any(field.type.field(n).name == "bytes" for n in range(field.type.num_fields)):
            return str(field.name)
    raise InputError(f"{file}: has no column of images, a struct with bytes; it has {', '.join(schema.names)}")


def _label_column(schema: Any, file: Path) -> str:
    for name in ("label", "labels", "fine_label"):
        if name in schema.names:
            return name
    whole = [field.name for field in schema if str(field.type).startswith(("int", "uint"))]
    if len(whole) == 1:
        return str(whole[0])
    raise InputError(f"{file}: has no column label; it has {', '.join(schema.names)}")


def _class_names(schema: Any, column: str, count: int) -> tuple[str, ...]:
    """The names that `datasets` keeps in the metadata, or else the numbers."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = tuple(str(name) for name in features[column]["names"])
    # Metadata are free: without them, or with others, classes go by their numbers.
    except (TypeError, KeyError, ValueError):
        names = ()
    return names if len(names) >= count else tuple(str(number) for number in range(count))
