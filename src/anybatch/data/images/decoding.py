"""A file's bytes to an upright picture in the wanted colours, or the reason why not."""

import io
import math
import warnings

import numpy as np
from PIL import Image, ImageOps

from anybatch.data.images.sets import Unreadable

# A very large picture is decoded; one of twice that size is refused, as an attack on the memory.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def opened(data: bytes) -> Image.Image:
    """The image in `data`, of any format that Pillow knows by its content, not by a file's name; not yet decoded.

    Raises:
        Unreadable: it is none, or so large that decoding it would be an attack on the memory.
    """
    if not data:
        raise Unreadable("the file is empty")
    try:
        return Image.open(io.BytesIO(data))
    # A hostile or damaged file can make a parser fail in any way.
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as a viewer shows it, whatever way the camera was held."""
    width, height = image.size
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def decoded(image: Image.Image, channels: int, least: tuple[float, float] | None = None) -> Image.Image:
    """The upright picture as 8-bit grey (1 channel) or RGB (3).

    What is transparent lies on white; 16-bit grey keeps its upper 8 bits; of an animation the first frame counts.

    Args:
        least: a width and height of the upright picture that are enough: a JPEG is then decoded at a half, a quarter or
            an eighth of its size where that is no smaller, which is several times as fast.

    Raises:
        Unreadable: the file is truncated or damaged.
    """
    orientation = _orientation(image)
    try:
        if least is not None and image.format == "JPEG":
            wide, high = least[::-1] if orientation in _TURNED else least
            image.draft(image.mode, (math.ceil(wide), math.ceil(high)))
        image.load()
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
        return _in_colours(image, "L" if channels == 1 else "RGB")
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # Cameras and editors write broken EXIF blocks beside sound pictures.
    except Exception:
        return 1


def _in_colours(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit PNGs come as 32-bit integers in some versions of Pillow.
        values = values / 257 if values.max(initial=0) > 255 else values
        return Image.fromarray(np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        seen_through = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), seen_through)
    # Pillow knows no way from Lab to grey but through colours.
    return image.convert("RGB").convert(mode) if image.mode == "LAB" else image.convert(mode)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "cannot identify image file" in text:
        return "not an image of a known format"
    return (text or type(error).__name__)[:160]
