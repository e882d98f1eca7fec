"""Kinds of input that hold images: folders, tar shards, parquet and IDX, each beside the library that defines it."""

import contextlib
import gzip
import io
import json
import struct
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutate import Kind
from PIL import Image, ImageOps
from webdataset.tariterators import group_by_keys, tar_file_iterator

from anybatch.data.images.decoding import decoded
from anybatch.data.images.finding import find_images
from anybatch.data.images.folder import SUFFIXES
from anybatch.data.images.sets import Unreadable

ORIENTATION = 0x0112
CLASSES = ("cat", "dog")


def _noise(channels: int, seed: int, bits: int = 8) -> Image.Image:
    draw = np.random.default_rng(seed)
    shape = (9, 12, channels) if channels > 1 else (9, 12)
    return Image.fromarray(draw.integers(0, 1 << bits, shape, dtype=np.uint8 if bits == 8 else np.uint16))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def _pictures() -> dict[str, bytes]:
    """A picture of every kind that the documentation names, small enough that a change strikes what matters."""
    color, grey, deep, seen_through = _noise(3, 0), _noise(1, 1), _noise(1, 2, bits=16), _noise(4, 3)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    return {
        "color.jpg": _encoded(color, "JPEG"),
        "progressive.jpg": _encoded(color, "JPEG", progressive=True),
        "turned.jpg": _encoded(color, "JPEG", exif=turned),
        "cmyk.jpg": _encoded(color.convert("CMYK"), "JPEG"),
        "color.png": _encoded(color, "PNG"),
        "turned.png": _encoded(color, "PNG", exif=turned),
        "grey.png": _encoded(grey, "PNG"),
        "sixteen-bits.png": _encoded(deep, "PNG"),
        "one-bit.png": _encoded(grey.convert("1"), "PNG"),
        "alpha.png": _encoded(seen_through, "PNG"),
        "grey-alpha.png": _encoded(seen_through.convert("LA"), "PNG"),
        "palette.png": _encoded(color.quantize(16), "PNG", transparency=3),
        "key.png": _encoded(grey, "PNG", transparency=7),
        "moving.gif": _encoded(color, "GIF", save_all=True, append_images=[color.rotate(90)]),
        "color.bmp": _encoded(color, "BMP"),
        "color.webp": _encoded(color, "WEBP", lossless=True),
        "color.jp2": _encoded(color, "JPEG2000"),
        "color.ppm": _encoded(color, "PPM"),
        "sixteen-bits.pgm": b"P5 12 9 65535\n" + np.asarray(deep).astype(">u2").tobytes(),
        "color.tiff": _encoded(color, "TIFF"),
        "packed.tif": _encoded(color, "TIFF", compression="tiff_lzw", exif=turned),
        "sixteen-bits.tif": _encoded(deep, "TIFF"),
        "float.tif": _encoded(Image.fromarray(np.asarray(grey) / np.float32(255)), "TIFF"),
    }


PICTURES = _pictures()


def _read(folder: Path) -> list[Any]:
    """[name, class, grey and RGB pixels, or None] of every image of both parts, as the recipes find them."""
    told: list[Any] = []
    for part in find_images(folder):
        if part is None:
            continue
        for number, label in enumerate(part.labels):
            try:
                pixels = [np.asarray(decoded(part.image(number), channels)) for channels in (1, 3)]
                shown = [[list(each.shape), each.tobytes()] for each in pixels]
            except Unreadable:
                shown = None
            told.append([_last_word(part.name(number)), part.classes[label], shown])
    return told


def _last_word(name: str) -> str:
    """The end of an image's name, which every reader gives."""
    return name.rpartition("/")[2].rpartition(" ")[2]


def _shown(data: bytes) -> Any:
    """[grey, RGB] of a picture: Pillow's, on white where it is transparent; of greys of 16 bits, the upper 8."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        # A damaged EXIF block is no damage of the picture.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _deep(image)
        elif image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        pixels = [np.asarray(image.convert(mode)) for mode in ("L", "RGB")]
    except Exception as error:
        return repr(error)
    return [[list(each.shape), each.tobytes()] for each in pixels]


def _deep(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits, which Pillow's `convert` cuts off at 255, as its own 16-bit colors: the upper 8."""
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.rint(values * 255 if values.max() <= 1 else values).astype(np.uint8))
    inverted = getattr(image, "tag_v2", {}).get(262) == 0
    return Image.fromarray(((values // 256) ^ (255 if inverted else 0)).astype(np.uint8))


def _agree(ours: Any, theirs: Any) -> bool:
    """Equal but for images that the package leaves out, which a run names."""
    return len(ours) == len(theirs) and all(
        mine[:2] == other[:2] and mine[2] in (None, other[2]) for mine, other in zip(ours, theirs, strict=True)
    )


def _write_folder(folder: Path) -> None:
    for place, (name, content) in enumerate(PICTURES.items()):
        (folder / "train" / CLASSES[place % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "train" / CLASSES[place % 2] / name).write_bytes(content)


def _reference_folder(folder: Path) -> list[Any]:
    files = sorted(file for file in folder.glob("train/*/*") if file.suffix in SUFFIXES)
    return [[file.name, file.parent.name, _shown(file.read_bytes())] for file in files]


def _write_tar(samples: bool, folder: Path) -> None:
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for place, name in enumerate(("color.png", "color.jpg", "palette.png", "grey.png")):
            picture = f"{place}.{name.rpartition('.')[2]}" if samples else f"{CLASSES[place % 2]}/{name}"
            members = {picture: PICTURES[name]}
            if samples:
                members[f"{place}.seg.png"] = PICTURES["one-bit.png"]
                members[f"{place}.cls"] = b"%d" % (place % 2)
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def _reference_tar(samples: bool, folder: Path) -> list[Any]:
    with open(folder / "train-0.tar", "rb") as file:
        members = [{**found, "__url__": "", "fname": found["fname"]} for found in tar_file_iterator(file)]
    if not samples:
        return [
            [_last_word(found["fname"]), Path(found["fname"]).parent.name, _shown(found["data"])]
            for found in members
            if Path(found["fname"]).suffix.lower() in SUFFIXES
        ]
    told = []
    for sample in group_by_keys(iter(members)):
        for field, content in sample.items():
            if f".{field}" in SUFFIXES:
                told.append([_last_word(f"{sample['__key__']}.{field}"), str(int(sample["cls"])), _shown(content)])
    return told


def _write_parquet(folder: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    rows = [{"bytes": content, "path": name} for name, content in PICTURES.items() if name.startswith("color")]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": column, "label": [place % 2 for place in range(len(rows))]})
    noted = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(noted, folder / "train.parquet", row_group_size=4)


def _reference_parquet(folder: Path) -> list[Any]:
    table = pq.read_table(folder / "train.parquet")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    rows = zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
    return [[str(place), names[label], _shown(image["bytes"])] for place, (image, label) in enumerate(rows)]


def _write_idx(packed: bool, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 6), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 3
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        name = f"train-{name}-ubyte" + (".gz" if packed else "")
        (folder / name).write_bytes(gzip.compress(content) if packed else content)


def _reference_idx(packed: bool, folder: Path) -> list[Any]:
    """The format as the page of MNIST has it: two zeros, the type, the dimensions, their sizes, the values."""
    arrays = []
    for name in ("images-idx3", "labels-idx1"):
        content = (folder / f"train-{name}-ubyte{'.gz' if packed else ''}").read_bytes()
        content = gzip.decompress(content) if packed else content
        shape = struct.unpack_from(f">{content[3]}I", content, 4)
        assert content[:3] == bytes([0, 0, 8])
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape))
    pixels, labels = arrays
    shown = [[_shown(_encoded(Image.fromarray(image), "PNG"))] for image in pixels]
    return [[str(place), str(label), *image] for place, (label, image) in enumerate(zip(labels, shown, strict=True))]


KINDS = [
    Kind("image/folder", _write_folder, _read, _reference_folder, _agree),
    Kind("image/webdataset", partial(_write_tar, True), _read, partial(_reference_tar, True), _agree),
    Kind("image/tar of folders", partial(_write_tar, False), _read, partial(_reference_tar, False), _agree),
    Kind("image/parquet", _write_parquet, _read, _reference_parquet, _agree),
    Kind("image/idx", partial(_write_idx, False), _read, partial(_reference_idx, False)),
    Kind("image/idx.gz", partial(_write_idx, True), _read, partial(_reference_idx, True)),
]
