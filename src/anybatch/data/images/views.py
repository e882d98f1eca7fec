"""The pixels of an example as in its epoch: cropped and flipped, from memory or from encoded files."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Interval, Le
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.images.decoding import decoded, turn_to_decode, upright_size
from anybatch.data.images.sets import ImageSet, Pixels, Unreadable
from anybatch.data.sampling import Words, below, random_words
from anybatch.environment import available_cores
from anybatch.errors import InputError

# Enough to find one good image if most are damaged.
_TRIED = 64

Box = tuple[int, int, int, int]

_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)
# Random words that a crop may use: area, aspect, left and top for each try.
CROP_WORDS = 4 * _TRIES

Share = Annotated[float, Gt(0), Le(1)]
Numbers = NDArray[np.int64]
Seen = NDArray[np.bool_]
OnSkip = Callable[[str, str], None]
# Shows examples, each as in its epoch, both int64[B], independently of the others: uint8[B, S, S, C], and bool[B],
# whether the image could be read.
Views = Callable[[Numbers, Numbers], tuple[Pixels, Seen]]


@dataclass(frozen=True, kw_only=True)
class Cropping:
    """What is done to an image's frame. Evaluation pads and flips nothing."""

    crop: Literal["none", "padded", "resized"] = "none"
    """none: the middle; padded: a random window of the padded image; resized: a random rectangle, resized.

    Only "resized" decodes images as they are needed; the others keep the decoded images in memory.
    """
    padding: Annotated[int, Interval(ge=0, le=4096)] = 0
    """Pixels added on each side, of crop = padded."""
    padding_mode: Literal["mean", "reflect"] = "mean"
    """Fill the padding with the mean color, or with the reflected image."""
    scale: tuple[Share, Share] = (0.08, 1.0)
    """The smallest and the largest area of the random rectangle, as a share of the image's, of crop = resized."""
    crop_pct: Share = 0.875
    """The side of the square in the middle that evaluation sees, as a share of the shorter side, of crop = resized."""
    flip: bool = False
    """Mirror half of the examples."""

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale = {self.scale}: the smallest area is above the largest")


class MemoryViews:
    """Views of images that are decoded once, uint8[N, S, S, C]: windows into them, or into the padded images."""

    def __init__(self, pixels: Pixels, cropping: Cropping, mean: Sequence[float], seed: int) -> None:
        self.pixels, self.cropping, self.seed = pixels, cropping, seed
        self._padding = cropping.padding if cropping.crop == "padded" else 0
        self._mean = np.rint(np.array(mean) * 255).astype(np.uint8)
        if self._padding >= (size := pixels.shape[1]):
            raise InputError(f"data.padding = {self._padding}: must be below the size of the images, {size}")

    def __call__(self, epochs: Numbers, examples: Numbers) -> tuple[Pixels, Seen]:
        found = self.pixels[examples]
        if self._padding or self.cropping.flip:
            words = random_words(self.seed, "crop", epochs, examples, 3)
            if self._padding:
                found = self._windows(found, words)
            if self.cropping.flip:
                flipped = below(words[:, 2], 2) == 1
                found[flipped] = found[flipped, :, ::-1]
        return found, np.ones(len(examples), dtype=np.bool_)

    def _windows(self, images: Pixels, words: Words) -> Pixels:
        """Returns a random window of each padded image, as large as the image."""
        size, padding = images.shape[1], self._padding
        around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        if self.cropping.padding_mode == "reflect":
            padded = np.pad(images, around, mode="reflect")
        else:
            padded = np.pad(images, around, mode="empty")
            margin = np.r_[:padding, padding + size : size + 2 * padding]
            padded[:, margin] = self._mean
            padded[:, :, margin] = self._mean
        tops, lefts = (below(words[:, place], 2 * padding + 1) for place in (0, 1))
        windows = sliding_window_view(padded, (size, size), axis=(1, 2))
        return np.ascontiguousarray(windows[np.arange(len(images)), tops, lefts].transpose(0, 2, 3, 1))


@dataclass(eq=False)
class FileViews:
    """Views of images that are decoded each time, by several threads: Pillow leaves Python's lock while it works.

    An image that cannot be read is gray and not seen; `on_skip(name, reason)` is called for it once.
    """

    images: ImageSet
    size: int
    channels: int
    cropping: Cropping
    seed: int
    on_skip: OnSkip
    training: bool
    skipped: dict[int, str] = field(default_factory=dict)
    """The reason, by the number of the image."""

    def __call__(self, epochs: Numbers, examples: Numbers) -> tuple[Pixels, Seen]:
        words = random_words(self.seed, "crop", epochs, examples, CROP_WORDS + 1)
        found = np.full((len(examples), self.size, self.size, self.channels), 128, dtype=np.uint8)
        seen = np.zeros(len(examples), dtype=np.bool_)

        def view(place: int) -> None:
            try:
                found[place] = self._view(int(examples[place]), words[place])
                seen[place] = True
            except Unreadable as error:
                self.skip(int(examples[place]), str(error))

        # Reading map's results raises what a thread raised.
        list(self._pool.map(view, range(len(examples))))
        return found, seen

    def _view(self, index: int, words: Words) -> Pixels:
        image = self.images.image(index)
        with turn_to_decode(image):
            width, height = upright_size(image)
            if not self.training:
                share = self.cropping.crop_pct if self.cropping.crop == "resized" else 1.0
                return cut_out(image, center_box(width, height, share), self.size, self.channels)
            box = random_resized_box(width, height, self.cropping.scale, words[:CROP_WORDS])
            pixels = cut_out(image, box, self.size, self.channels)
        flipped = self.cropping.flip and below(words[CROP_WORDS:], 2)[0] == 1
        return pixels[:, ::-1] if flipped else pixels

    def skip(self, index: int, reason: str) -> None:
        """Records, and reports once, that an image cannot be read."""
        if index not in self.skipped:
            self.skipped[index] = reason
            self.on_skip(self.images.name(index), reason)

    def alone(self) -> None:
        """Prepares a forked process: one thread decodes, and only `skipped` reports."""
        self.on_skip = lambda name, reason: None
        self.__dict__["_pool"] = ThreadPoolExecutor(1)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(num_threads(), thread_name_prefix="anybatch-images")


def decode_all(
    images: ImageSet, size: int, channels: int, seed: int, on_skip: OnSkip, most_bytes: int
) -> tuple[Pixels, Numbers]:
    """Returns the middle of every image that can be read, uint8[M, S, S, C], and the numbers of these images.

    Raises:
        InputError: the images need more than `most_bytes`, or none can be read.
    """
    count = len(images.labels)
    if (needed := count * size * size * channels) > most_bytes:
        raise InputError(
            f"{count} images of {size} x {size} take {needed / 2**30:.1f} GB decoded, more than half of the memory; "
            "set data.crop=resized, which decodes them as they are needed"
        )
    views = FileViews(images, size, channels, Cropping(), seed, on_skip, training=False)
    pixels, seen = views(np.zeros(count, dtype=np.int64), np.arange(count))
    if not seen.any():
        raise InputError(
            f"{images.name(0)}: cannot be read ({views.skipped[0]}), and neither can any of {count:,} images"
        )
    return pixels[seen] if not seen.all() else pixels, np.flatnonzero(seen)


def check_readable(views: FileViews) -> None:
    """Raises InputError if no image of a sample over the whole set can be read: a run would learn nothing."""
    count = len(views.images.labels)
    tried = np.unique(np.linspace(0, count - 1, min(count, _TRIED)).astype(np.int64))
    epoch = np.zeros(1, dtype=np.int64)
    # Usually the first one can be read, and no other is decoded.
    if not any(views(epoch, tried[place : place + 1])[1].all() for place in range(len(tried))):
        first = int(tried[0])
        raise InputError(
            f"{views.images.name(first)}: cannot be read ({views.skipped[first]}), and neither can any of {len(tried)} "
            f"images out of {count:,}"
        )


def num_threads() -> int:
    """Returns how many images this process decodes at a time: its share of the machine's cores."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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


def center_box(width: int, height: int, share: float) -> Box:
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
