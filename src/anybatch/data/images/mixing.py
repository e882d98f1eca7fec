"""Images made of two (mixup, cutmix) and images with a hole (cutout); each example draws its own."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from anybatch.data.images.crops import uniform
from anybatch.data.sampling import below, generator, random_words

Numbers = NDArray[np.int64]
Floats = NDArray[np.float32]
Alpha = Annotated[float, Interval(ge=0, le=1000)]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How an example is mixed with another, and cut; with mixup and cutmix, each example tosses a coin.

        mixup     x <- s x + (1 - s) x'            s ~ Beta(alpha, alpha)
        cutmix    x <- x with a rectangle of x'    of 1 - s of the area, at a random place, cut off at the edges
        label     s y + (1 - s) y'                 s of cutmix: what is left after cutting off

    Source: Zhang et al. 2018, arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899. Both mix an example with another of
    its batch, so an example would depend on the batch; here each draws its partner from all examples.
    """

    mixup: Alpha = 0.0
    """The alpha of mixup's Beta(alpha, alpha); 0: none."""
    cutmix: Alpha = 0.0
    """The alpha of CutMix's Beta(alpha, alpha); 0: none."""
    cutout: Annotated[int, Interval(ge=0, le=4096)] = 0
    """The side of the square that is set to the mean color at a random place, in pixels; 0: none."""

    @property
    def mixes(self) -> bool:
        """Returns whether an example has a partner."""
        return self.mixup > 0 or self.cutmix > 0


NOTHING_MIXED = Mixing()


def draw(mixing: Mixing, seed: int, epochs: Numbers, examples: Numbers, size: int, count: int) -> "Mix":
    """Draws what each of B examples is mixed with, of `count`, in images of `size` pixels."""
    partners = below(random_words(seed, "partner", epochs, examples, 1)[:, 0], count)
    shares = np.ones(len(examples), dtype=np.float32)
    boxes = np.zeros((len(examples), 4), dtype=np.int64)
    pasted = np.zeros(len(examples), dtype=np.bool_)
    for place, (epoch, example) in enumerate(zip(epochs.tolist(), examples.tolist(), strict=True)):
        own = generator(seed, epoch, example, "mix")
        pasted[place] = mixing.cutmix > 0 and (mixing.mixup == 0 or own.random() < 0.5)
        alpha = mixing.cutmix if pasted[place] else mixing.mixup
        shares[place] = own.beta(alpha, alpha)
        if pasted[place]:
            half = size * np.sqrt(1 - shares[place]) / 2
            edges = [np.clip(np.rint(middle + np.array([-half, half])), 0, size) for middle in own.random(2) * size]
            boxes[place] = np.concatenate(edges)
            top, bottom, left, right = boxes[place]
            shares[place] = 1 - (bottom - top) * (right - left) / size**2
    return Mix(partners, shares, boxes, pasted)


@dataclass(frozen=True)
class Mix:
    """For B examples: partners int64[B], the own label's share float32[B], rectangles int64[B, 4], pasted bool[B]."""

    partners: Numbers
    shares: Floats
    boxes: Numbers
    pasted: NDArray[np.bool_]

    def apply(self, images: Floats, others: Floats) -> None:
        """Mixes `others` into `images`, float32[B, S, S, C] both, in place."""
        blended = ~self.pasted
        share = self.shares[blended, None, None, None]
        images[blended] = share * images[blended] + (1 - share) * others[blended]
        for place in np.flatnonzero(self.pasted):
            top, bottom, left, right = self.boxes[place]
            images[place, top:bottom, left:right] = others[place, top:bottom, left:right]


def cut_holes(images: Floats, seed: int, epochs: Numbers, examples: Numbers, hole: int) -> None:
    """Sets a square of `hole` pixels at a random place of each image, float32[B, S, S, C], to 0, the mean color.

    The square is wholly inside. Source: DeVries and Taylor 2017, arXiv 1708.04552, in the form of Page's DavidNet.
    """
    size = images.shape[1]
    places = uniform(random_words(seed, "hole", epochs, examples, 2)) * (size - hole + 1)
    for place, (top, left) in enumerate(places.astype(np.int64)):
        images[place, top : top + hole, left : left + hole] = 0
