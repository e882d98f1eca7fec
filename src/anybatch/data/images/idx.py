"""Images in IDX files, MNIST's format, and the digits that come with this package in the same form."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.sets import ImageSet, numbered
from anybatch.errors import InputError

_UNSIGNED_BYTES = 0x08
# The largest number of bytes that one byte of gzip can hold, by deflate's format.
_MOST_RATIO = 1032
_DIGITS = Path(__file__).with_name("digits")


def read_idx(images: Path, labels: Path) -> ImageSet:
    """Reads the images and the labels in a pair of IDX files, plain or .gz; LeCun's format of the MNIST page.

    Raises:
        InputError: a file is damaged or of another shape, or the two do not belong together.
    """
    pixels, classes = _array(images, 3), _array(labels, 1)
    if len(pixels) != len(classes):
        raise InputError(f"{images}: has {len(pixels)} images, {labels.name} has {len(classes)} labels")
    if not pixels.size:
        raise InputError(f"{images}: there is no image in it")
    return ImageSet(
        *numbered(classes.tolist()),
        lambda index: f"{images}, image {index}",
        lambda index: Image.fromarray(pixels[index]),
    )


def digits() -> ImageSet:
    """Returns 1,797 handwritten digits of 8 x 8 pixels, the test part of the UCI set; see digits/README.md."""
    return read_idx(_DIGITS / "images-idx3-ubyte.gz", _DIGITS / "labels-idx1-ubyte.gz")


def _array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads what the file's header promises, and no byte more: a few megabytes of gzip can hold gigabytes of zeros."""
    header = 4 + 4 * dimensions
    size = path.stat().st_size
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            begin = file.read(header)
            if begin[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]) or len(begin) < header:
                raise InputError(
                    f"{path}: not an IDX file of bytes in {dimensions} dimensions (it begins with {begin[:4].hex()})"
                )
            shape = tuple(int(length) for length in np.frombuffer(begin, ">u4", dimensions, 4))
            promised = math.prod(shape)
            if promised > size * (_MOST_RATIO if path.suffix == ".gz" else 1):
                raise InputError(f"{path}: {size:,} bytes; a shape of {shape} needs {promised:,}")
            content = np.empty(promised, np.uint8)
            found, more = file.readinto(content.data), file.read(1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise InputError(f"{path}: not readable: {error}") from None
    if found < promised or more:
        had = f"more than {found:,}" if more else f"{found:,}"
        raise InputError(f"{path}: {had} bytes of content; a shape of {shape} needs {promised:,}")
    return content.reshape(shape)
