"""Labeled images as batches: normalized, channels last in memory, mixed on request."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval, Len
from numpy.typing import NDArray
from torch import Tensor

from anybatch.data.batch import Batch
from anybatch.data.images.sets import Labels
from anybatch.data.images.views import Numbers, Views, uniform
from anybatch.data.sampling import below, generator, random_words
from anybatch.errors import InputError

Floats = NDArray[np.float32]
Alpha = Annotated[float, Interval(ge=0, le=1000)]
Channels = Annotated[tuple[float, ...], Len(1, 3)]

# The label that cross-entropy ignores: that of an image that could not be read.
NO_LABEL = -100


@dataclass(frozen=True)
class Normalization:
    """How pixels become numbers around 0; its channels are those of the images."""

    mean: Channels
    """The mean of each channel, of pixels from 0 to 1."""
    std: Channels
    """The standard deviation of each channel."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) == 2 or min(self.std) <= 0:
            raise InputError(
                f"mean = {self.mean}, std = {self.std}: must have one value each for gray images or three for colors, "
                "and std above 0"
            )

    @property
    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns, by channel, the factor of a pixel from 0 to 255, and what is then subtracted."""
        std = np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (np.array(self.mean) / std).astype(np.float32)

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (pixels / 255 - mean) / std, float32[..., C]."""
        # By whole rows of pixels: NumPy is several times slower if its innermost loop is over the few channels.
        width, (scale, shift) = pixels.shape[-2], self.scale_and_shift
        images = pixels.reshape(*pixels.shape[:-2], -1).astype(np.float32)
        images *= np.tile(scale, width)
        images -= np.tile(shift, width)
        return images.reshape(pixels.shape)


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


def mix(
    mixing: Mixing, seed: int, epochs: Numbers, examples: Numbers, images: Floats, others: Floats
) -> NDArray[np.float32]:
    """Mixes `others`, the partners' images, into `images`, float32[B, S, S, C] both, in place.

    Returns float32[B], the share of each example's own label.
    """
    size = images.shape[1]
    shares = np.ones(len(examples), dtype=np.float32)
    for place, (epoch, example) in enumerate(zip(epochs.tolist(), examples.tolist(), strict=True)):
        own = generator(seed, epoch, example, "mix")
        is_pasted = mixing.cutmix > 0 and (mixing.mixup == 0 or own.random() < 0.5)
        alpha = mixing.cutmix if is_pasted else mixing.mixup
        share = shares[place] = np.float32(own.beta(alpha, alpha))
        if is_pasted:
            half = size * np.sqrt(1 - share) / 2
            edges = [np.clip(np.rint(middle + np.array([-half, half])), 0, size) for middle in own.random(2) * size]
            top, bottom, left, right = np.concatenate(edges).astype(np.int64)
            images[place, top:bottom, left:right] = others[place, top:bottom, left:right]
            shares[place] = 1 - (bottom - top) * (right - left) / size**2
        else:
            images[place] = share * images[place] + (1 - share) * others[place]
    return shares


def cut_holes(images: Floats, seed: int, epochs: Numbers, examples: Numbers, hole: int) -> None:
    """Sets a square of `hole` pixels at a random place of each image, float32[B, S, S, C], to 0, the mean color.

    The square is wholly inside. Source: DeVries and Taylor 2017, arXiv 1708.04552, in the form of Page's DavidNet.
    """
    size = images.shape[1]
    places = uniform(random_words(seed, "hole", epochs, examples, 2)) * (size - hole + 1)
    for place, (top, left) in enumerate(places.astype(np.int64)):
        images[place, top : top + hole, left : left + hole] = 0


@dataclass(eq=False)
class ImageSource:
    """Images and labels, each example as in its epoch."""

    views: Views
    """Pixels by (epoch, example)."""
    labels: Labels
    """int64[N]."""
    normalization: Normalization
    seed: int
    _: KW_ONLY
    mixing: Mixing = field(default_factory=Mixing)
    top5: bool = False
    """Also count whether the label is among the five likeliest; for evaluation."""
    raw: bool = False
    """Pixels stay uint8 and the model normalizes them, a quarter of the memory and of the transfer to a GPU.

    Not if examples are mixed or have holes, which are made of normalized pixels.
    """

    def __post_init__(self) -> None:
        self.raw = self.raw and not self.mixing.mixes and not self.mixing.cutout

    @property
    def num_examples(self) -> int:
        """Returns the number of images in one epoch."""
        return len(self.labels)

    def batch(self, epochs: NDArray[np.int64], examples: NDArray[np.int64]) -> Batch:
        """Returns the examples numbered `examples`, each as in its epoch; both int64[B].

        Returns:
            images float32[B, C, S, S], channels last in memory; labels int64[B], -100 if the image cannot be read.
            With mixing also partner_labels int64[B] and shares float32[B], the share of the example's own label. Raw
            images are uint8, with scale and shift float32[C] and seen bool[B]. Targets: "label", the images that can
            be read; with `top5` "label_top5", as many.
        """
        epochs, examples = (np.asarray(numbers, dtype=np.int64) for numbers in (epochs, examples))
        if self.raw:
            # What `models.classifier.normalized` takes beside the pixels.
            pixels, seen = self.views(epochs, examples)
            scale, shift = map(torch.from_numpy, self.normalization.scale_and_shift)
            inputs = {"scale": scale, "shift": shift, "seen": torch.from_numpy(seen)}
            return self._batch(torch.from_numpy(pixels), seen, examples, inputs)
        images, seen = self._seen(epochs, examples)
        inputs = {}
        if self.mixing.mixes:
            partners = below(random_words(self.seed, "partner", epochs, examples, 1)[:, 0], self.num_examples)
            others, others_seen = self._seen(epochs, partners)
            both = seen & others_seen
            others[~both] = images[~both]
            shares = mix(self.mixing, self.seed, epochs, examples, images, others)
            inputs["partner_labels"] = torch.from_numpy(np.where(seen, self.labels[partners], NO_LABEL))
            inputs["shares"] = torch.from_numpy(np.where(both, shares, np.float32(1)))
        return self._batch(torch.from_numpy(images), seen, examples, inputs)

    def _batch(
        self, images: Tensor, seen: NDArray[np.bool_], examples: NDArray[np.int64], others: dict[str, Tensor]
    ) -> Batch:
        inputs = {**others, "images": images.permute(0, 3, 1, 2)}
        inputs["labels"] = torch.from_numpy(np.where(seen, self.labels[examples], NO_LABEL))
        return Batch(inputs, self.promised_targets(int(seen.sum())), len(examples))

    def promised_targets(self, count: int) -> dict[str, int]:
        """The targets of `count` images that can be read."""
        return {"label": count, **({"label_top5": count} if self.top5 else {})}

    def _seen(
        self, epochs: NDArray[np.int64], examples: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        pixels, seen = self.views(epochs, examples)
        images = self.normalization.normalized(pixels)
        images[~seen] = 0
        if self.mixing.cutout:
            cut_holes(images, self.seed, epochs, examples, self.mixing.cutout)
        return images, seen


@dataclass(eq=False)
class LateBatch:
    """`num_examples` of a source from `start` on, as in epoch 0, read each time they are used."""

    source: ImageSource
    start: int
    num_examples: int
    checksum: int = 0

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        return self._read().inputs

    @cached_property
    def num_targets(self) -> Mapping[str, int]:
        return self._read().num_targets

    def _read(self) -> Batch:
        examples = np.arange(self.start, self.start + self.num_examples)
        batch = self.source.batch(np.zeros_like(examples), examples)
        # Which images can be read is known now; they need not be decoded again for it.
        self.__dict__["num_targets"] = batch.num_targets
        return batch


def late_batches(source: ImageSource, batch_size: int) -> list[LateBatch]:
    """Returns all examples of a source, in order, as batches that take no memory until they are used."""
    count = source.num_examples
    return [LateBatch(source, start, min(batch_size, count - start)) for start in range(0, count, batch_size)]
