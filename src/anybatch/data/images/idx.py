"""Images in IDX files, as MNIST is published, and the digits that come with this package in the same form."""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.sets import Classes, Pixels
from anybatch.errors import InputError

_UNSIGNED_BYTES = 0x08
_DIGITS = Path(__file__).with_name("digits")


@dataclass(frozen=True)
class ArrayImages:
    """Images that lie decoded in memory: uint8[N, H, W] or uint8[N, H, W, 3]."""

    where: str
    pixels: Pixels
    classes: Classes

    def name(self, index: int) -> str:
        return f"{self.where}, image {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def read_idx(images: Path, labels: Path) -> ArrayImages:
    """The images and the labels in a pair of IDX files, plain or .gz; LeCun's format of the MNIST page.

    Raises:
        InputError: a file is damaged or of another shape, or the two do not belong together.
    """
    pixels, numbers = _array(images, 3), _array(labels, 1)
    if len(pixels) != len(numbers):
        raise InputError(f"{images}: has {len(pixels)} images, {labels.name} has {len(numbers)} labels")
    if not pixels.size:
        raise InputError(f"{images}: there is no image in it")
    names = tuple(str(number) for number in range(int(numbers.max()) + 1))
    return ArrayImages(str(images), pixels, Classes(numbers.astype(np.int64), names))


def digits() -> ArrayImages:
    """1,797 handwritten digits of 8 x 8 pixels, the test part of the UCI set; see digits/README.md."""
    return read_idx(_DIGITS / "images-idx3-ubyte.gz", _DIGITS / "labels-idx1-ubyte.gz")


def _array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not readable: {error}") from None
    header = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTES, dimensions])
    if data[:4] != expected or len(data) < header:
        raise InputError(
            f"{path}: not an IDX file of bytes in {dimensions} dimensions (it begins with {data[:4].hex()})"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) - header != math.prod(shape):
        raise InputError(f"{path}: {len(data) - header} bytes of content; a shape of {shape} needs {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
