"""A file's bytes to an upright image in the wanted colors, or the reason why not."""

import io
import math
import os
import stat
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from anybatch.data.images.sets import Unreadable
from anybatch.errors import one_line

# Pillow warns of a very large image, which is decoded (one of twice that size is refused), and of damaged metadata
# beside good pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
# The factor that gives a gray level of a PNG of this many bits 8 bits; Pillow applies it to pixels, not to the
# transparent key.
_TO_8_BITS = {"L;2": 85, "L;4": 17}

_MOST_BYTES = 2**30
# Pixels: how many are converted at a time, and from how many on images are decoded one after the other.
_STRIP = 2**20
_LARGE = 2**24
_LARGE_ONES = threading.Lock()


def opened_file(path: Path, offset: int = 0, size: int | None = None) -> Image.Image:
    """Opens the image in a file, or in `size` bytes of it from `offset` on; does not decode it yet.

    Raises:
        Unreadable: there is no such file, it ends too early, is larger than 1 GiB, or is no image; see `opened`.
    """
    try:
        status = path.stat()
        # Reading a pipe would wait, and reading a device would not end.
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a file")
        wanted = status.st_size if size is None else size
        if wanted > _MOST_BYTES:
            raise Unreadable(f"has {wanted:,} bytes; an image may have {_MOST_BYTES:,}")
        with path.open("rb") as file:
            data = os.pread(file.fileno(), wanted, offset)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    if len(data) < wanted:
        raise Unreadable("the file ends before the image does")
    return opened(data)


def opened(data: bytes) -> Image.Image:
    """Opens the image in `data`, of any format that Pillow knows by content, not by name; does not decode it yet.

    Raises:
        Unreadable: it is no image, or so large that decoding it could exhaust the memory.
    """
    if not data:
        raise Unreadable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
    # A hostile or damaged file can make a parser fail in any way.
    except Exception as error:
        raise Unreadable(_reason(error)) from None
    if image.format == "EPS":
        raise Unreadable("is a PostScript program, which is not run")
    key = image.info.get("transparency")
    if image.format == "PNG" and key is not None:
        raw = image.tile[0][3] if image.tile else None
        if raw == "RGB;16B":
            raise Unreadable(
                "one of its 16-bit colors is transparent, which Pillow cannot find after it decoded 8 bits"
            )
        if raw in _TO_8_BITS:
            image.info["transparency"] = key * _TO_8_BITS[raw]
    return image


def turn_to_decode(image: Image.Image) -> AbstractContextManager[object]:
    """Holds a lock while an opened image is decoded: images of hundreds of megabytes are decoded one at a time."""
    return _LARGE_ONES if image.width * image.height > _LARGE else nullcontext()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns (width, height) as a viewer shows the image, however the camera was held.

    Raises:
        Unreadable: the file is truncated or damaged.
    """
    turned = _orientation(image) in _TURNED
    return (image.height, image.width) if turned else image.size


def decoded(image: Image.Image, channels: int, least: tuple[float, float] | None = None) -> Image.Image:
    """Returns the upright image as 8-bit gray (1 channel) or RGB (3): what Pillow's `load` and `convert` give, except:

        transparent     lies on white: an alpha channel, a palette's, a color that a PNG names as transparent
        unsigned 12 or 16 bits    keep the upper 8
        floats          are from 0 to 1, and become 0 to 255; or they are whole numbers from 0 to 255
        signed, 32 bits, other floats    are refused: nobody says which value is white

    In an animation or a file of several pages, the first image counts.

    Args:
        least: a sufficient width and height of the upright image: a JPEG is then decoded at a half, a quarter or an
            eighth of its size if that is not smaller, which is several times as fast.

    Raises:
        Unreadable: the file is truncated or damaged, or the meaning of its values is unknown.
    """
    orientation = _orientation(image)
    try:
        if least is not None and image.format == "JPEG":
            wide, high = least[::-1] if orientation in _TURNED else least
            image.draft(image.mode, (math.ceil(wide), math.ceil(high)))
        image.load()
        picture = _in_colors(image, "L" if channels == 1 else "RGB")
        return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, or 1 if none can be read.

    Only a JPEG has it before decoding: a PNG may have it after its pixels, and a TIFF is turned during decoding. An
    error of that first decoding must not be lost: Pillow decodes an image once and considers it complete afterwards.
    """
    if image.format not in ("JPEG", "MPO"):
        try:
            image.load()
        except Exception as error:
            raise Unreadable(_reason(error)) from None
    # Cameras and editors write broken EXIF blocks beside good images. What was read before the damage is kept.
    with suppress(Exception):
        image.getexif()
    try:
        orientation = image.getexif().get(_ORIENTATION)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:
        return 1


def _in_colors(image: Image.Image, mode: str) -> Image.Image:
    """Converts large images in strips: some conversions of colors need several copies of their input."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.width * image.height <= _STRIP:
        return _shown(image, image).convert(mode)
    flat = Image.new(mode, image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        flat.paste(_shown(strip, image).convert(mode), (0, top))
    return flat


def _shown(strip: Image.Image, image: Image.Image) -> Image.Image:
    """Returns a strip of `image` in a mode from which Pillow converts to gray and to RGB as a viewer shows it."""
    if strip.mode.startswith("I;16") or strip.mode in ("I", "F"):
        return Image.fromarray(_gray(np.asarray(strip), image))
    if strip.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip.convert("RGBA"))
    # Pillow converts Lab to gray only through colors.
    return strip.convert("RGB") if strip.mode == "LAB" else strip


def _gray(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Returns uint8 of a strip's values; for grays of more than 8 bits, Pillow leaves their meaning to the reader."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        low, high = image.getextrema()
        scale = 255 if low >= 0 and high <= 1 else 1  # type: ignore[operator]
        scaled = np.rint(values * np.float32(scale))
        whole = scale == 255 or np.array_equal(scaled, values)
        if not (low >= 0 and high <= 255 and whole and np.isfinite(values).all()):  # type: ignore[operator]
            raise Unreadable(
                f"floating-point pixels from {low:g} to {high:g}; must be from 0 to 1, or whole numbers from 0 to 255"
            )
        gray = scaled.astype(np.uint8)
    elif image.mode == "I" and image.format != "PPM":
        raise Unreadable("pixels of 32 bits or with a sign, which nobody gives a white; convert them to 8 or 16 bits")
    else:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        gray = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:
        # White is zero; Pillow handles this for 8 bits.
        gray = 255 - gray
    if (key := image.info.get("transparency")) is not None:
        gray[values == key] = 255
    return gray


def _reason(error: Exception) -> str:
    text = one_line(error)
    return "not an image of a known format" if "cannot identify image file" in text else text
