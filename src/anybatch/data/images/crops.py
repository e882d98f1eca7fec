"""Chooses a rectangle of an image, and turns it into pixels of one size."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.decoding import decoded, upright_size
from anybatch.data.images.sets import Pixels
from anybatch.data.sampling import Words

Box = tuple[int, int, int, int]

_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
# Random words that a crop may use: area, aspect, left and top for each try.
CROP_WORDS = 4 * _TRIES


def uniform(words: Words) -> NDArray[np.float64]:
    """Maps each word to a number in [0, 1), by its upper 53 bits."""
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def random_resized_box(width: int, height: int, scale: tuple[float, float], words: Words) -> Box:
    """Returns (left, top, right, bottom) of a rectangle with a random share of the area and a random aspect.

        area ~ U(smallest, largest) * width * height       log(aspect) ~ U(log 3/4, log 4/3)

    The first of ten draws that fits into the image, at a uniformly random place. If none fits, the largest rectangle
    in the middle whose aspect is in bounds.

    Args:
        scale: (smallest, largest), shares of the area.
        words: uint64[40], the example's random words.

    Source: Szegedy et al. 2015, Going Deeper with Convolutions, section 6, in the form that all ImageNet code uses.
    """
    for share, aspect, left, top in uniform(words).reshape(_TRIES, 4).tolist():
        area = (scale[0] + (scale[1] - scale[0]) * share) * width * height
        low, high = map(math.log, _ASPECT)
        ratio = math.exp(low + (high - low) * aspect)
        wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            x, y = int(left * (width - wide + 1)), int(top * (height - high_ + 1))
            return x, y, x + wide, y + high_
    wide = min(width, max(1, round(height * _ASPECT[1])))
    high_ = min(height, max(1, round(width / _ASPECT[0])))
    x, y = (width - wide) // 2, (height - high_) // 2
    return x, y, x + wide, y + high_


def centre_box(width: int, height: int, share: float) -> Box:
    """Returns the square in the middle whose side is `share` of the shorter side, at least one pixel.

    With share 224/256 it is the square of 'resize the shorter side to 256, cut 224 out of the middle'.
    """
    side = max(1, round(min(width, height) * share))
    x, y = (width - side) // 2, (height - side) // 2
    return x, y, x + side, y + side


def cut_out(image: Image.Image, box: Box, size: int, channels: int) -> Pixels:
    """Returns uint8[size, size, channels]: the content of `image` in `box`, decoded no larger than needed.

    Raises:
        Unreadable: the file is truncated or damaged.
    """
    width, height = upright_size(image)
    left, top, right, bottom = box
    least = width * size / (right - left), height * size / (bottom - top)
    picture = decoded(image, channels, least)
    across, down = picture.width / width, picture.height / height
    scaled = left * across, top * down, right * across, bottom * down
    if scaled == (0, 0, size, size) and picture.size == (size, size):
        return np.asarray(picture).reshape(size, size, channels)
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=scaled)
    return np.asarray(resized).reshape(size, size, channels)
