"""What a set of labelled images is, whatever it lies in, and how a part of one is held out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.sampling import random_words
from anybatch.errors import InputError

Labels = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# Far above any set in use; a damaged label would otherwise make a network of its size.
MOST_CLASSES = 10**6


class Unreadable(Exception):
    """An image that cannot be read; the message says why."""


@dataclass(frozen=True)
class Classes:
    """The class of every image, int64[N], and the name of every class; `notes` are lines about what was left out."""

    labels: Labels
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class ImageSet(Protocol):
    """Numbered images, each of one class; reading one changes nothing and may be done from several threads."""

    @property
    def classes(self) -> Classes: ...

    def name(self, index: int) -> str:
        """What to call an image in a message: its file, or its place in one."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image, opened and not yet decoded.

        Raises:
            Unreadable: it is not an image that Pillow knows, or its file cannot be read.
        """
        ...


@dataclass(frozen=True)
class Part:
    """Some images of a set, in the order of `chosen`, int64[M]."""

    whole: ImageSet
    chosen: NDArray[np.int64]
    classes: Classes

    @classmethod
    def of(cls, whole: ImageSet, chosen: NDArray[np.int64]) -> "Part":
        classes = whole.classes
        return cls(whole, chosen, Classes(classes.labels[chosen], classes.names, classes.notes))

    def name(self, index: int) -> str:
        return self.whole.name(int(self.chosen[index]))

    def image(self, index: int) -> Image.Image:
        return self.whole.image(int(self.chosen[index]))


@dataclass(frozen=True)
class BlankImages:
    """`count` grey pictures of `size`, (width, height), over `num_classes`: what stands in for a set not at hand."""

    count: int
    num_classes: int
    size: tuple[int, int]

    @property
    def classes(self) -> Classes:
        return Classes(np.arange(self.count) % self.num_classes, tuple(map(str, range(self.num_classes))))

    def name(self, index: int) -> str:
        return f"blank image {index}"

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", self.size, (128, 128, 128))


def hold_out(images: ImageSet, fold: int, folds: int) -> tuple[Part, Part]:
    """(all but one fold, one fold) of `folds` parts of a set that differ by one image at most a class.

    Which fold an image is in depends on the set alone, never on a run's seed, so that runs can be compared.

    Raises:
        InputError: `fold` is not in [0, folds), or there are fewer images than folds.
    """
    if not 0 <= fold < folds:
        raise InputError(f"data.fold = {fold}: must be at least 0 and below data.folds = {folds}")
    labels = images.classes.labels
    if len(labels) < folds:
        raise InputError(f"{len(labels)} images cannot be parted into {folds} folds; choose fewer folds")
    shuffled = np.argsort(random_words(0, "fold", [0], [0], len(labels))[0], kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.sort(by_class[fold::folds])
    return Part.of(images, np.setdiff1d(np.arange(len(labels)), held)), Part.of(images, held)


def with_classes_of(training: ImageSet, held_out: ImageSet, where: object) -> ImageSet:
    """The held-out part of a set, its classes numbered as those for training; one without images there is noted.

    Raises:
        InputError: it has a class that is none of those for training.
    """
    mine, theirs = training.classes.names, held_out.classes.names
    if unknown := sorted(set(theirs) - set(mine)):
        raise InputError(
            f"{where}: the held-out images have other classes than those for training, such as {unknown[0]!r}; "
            "both parts need the same classes"
        )
    number = {name: place for place, name in enumerate(mine)}
    labels = np.array([number[name] for name in theirs], dtype=np.int64)[held_out.classes.labels]
    notes = held_out.classes.notes
    if missing := [mine[place] for place in np.setdiff1d(training.classes.labels, labels)]:
        notes += (f"{where}: {len(missing):,} of {len(mine):,} classes are not held out, such as {missing[0]}",)
    return Part(held_out, np.arange(len(labels)), Classes(labels, mine, notes))


def printable(name: str) -> str:
    """A name as a file system gives it, which need not be text: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode(errors="backslashreplace")


def numbered(names: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """Names of classes, one an image, as numbers and the sorted names that they stand for."""
    unique = tuple(sorted(set(names)))
    number = {name: place for place, name in enumerate(unique)}
    return np.array([number[name] for name in names], dtype=np.int64), unique
