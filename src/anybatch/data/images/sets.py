"""Sets of labeled images, in any layout, and how a part of one is held out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anybatch.data.sampling import random_words
from anybatch.errors import InputError

Labels = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# Far above any set in use; without this bound, a damaged label would make a network of its size.
MOST_CLASSES = 10**6


class Unreadable(Exception):
    """An image that cannot be read; the message says why."""


@dataclass(frozen=True)
class ImageSet:
    """Numbered images, each of one class; reading one changes nothing and may be done from several threads."""

    labels: Labels
    """The class of every image, int64[N]."""
    classes: tuple[str, ...]
    """The name of every class."""
    name: Callable[[int], str]
    """The name of an image for messages: its file, or its place in one."""
    image: Callable[[int], Image.Image]
    """Opens an image, does not decode it yet; Unreadable: Pillow does not know it, or its file cannot be read."""
    notes: tuple[str, ...] = ()
    """Lines about what was skipped."""

    def take(self, chosen: Labels) -> "ImageSet":
        """Returns some of the images, in the order of `chosen`, int64[M]."""
        return replace(
            self,
            labels=self.labels[chosen],
            name=lambda index: self.name(int(chosen[index])),
            image=lambda index: self.image(int(chosen[index])),
        )


def folded(labels: Labels, fold: int, folds: int) -> tuple[Labels, Labels]:
    """Returns the numbers of the images of (all but one fold, one fold), which differ by at most one image a class.

    The fold of an image depends only on the set, never on a run's seed, so runs can be compared.

    Raises:
        InputError: `fold` is not in [0, folds), or there are fewer images than folds.
    """
    if not 0 <= fold < folds:
        raise InputError(f"data.fold = {fold}: must be at least 0 and below data.folds = {folds}")
    if len(labels) < folds:
        raise InputError(f"{len(labels)} images cannot be parted into {folds} folds; choose fewer folds")
    shuffled = np.argsort(random_words(0, "fold", [0], [0], len(labels))[0], kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.sort(by_class[fold::folds])
    return np.setdiff1d(np.arange(len(labels)), held), held


def with_classes_of(training: ImageSet, held_out: ImageSet, where: object) -> ImageSet:
    """Returns the held-out part of a set, its classes numbered as those for training; notes a class without images.

    Raises:
        InputError: it has a class that the training part does not have.
    """
    if unknown := sorted(set(held_out.classes) - set(training.classes)):
        raise InputError(
            f"{where}: the held-out images have other classes than those for training, such as {unknown[0]!r}; "
            "both parts need the same classes"
        )
    labels = renumbered(held_out.labels, held_out.classes, training.classes)
    notes = held_out.notes
    if missing := [training.classes[place] for place in np.setdiff1d(training.labels, labels)]:
        count = len(training.classes)
        notes += (f"{where}: {len(missing):,} of {count:,} classes are not held out, such as {missing[0]}",)
    return replace(held_out, labels=labels, classes=training.classes, notes=notes)


def renumbered(labels: Labels, classes: Sequence[str], known: Sequence[str]) -> Labels:
    """Returns `labels`, numbers of `classes`, as numbers of the same names in `known`."""
    number = {name: place for place, name in enumerate(known)}
    return np.array([number[name] for name in classes], dtype=np.int64)[labels]


def numbered(classes: Sequence[str] | Sequence[int]) -> tuple[Labels, tuple[str, ...]]:
    """Turns the classes of N images into numbers, int64[N], and names: sorted, or the numbers 0 to the largest."""
    if isinstance(classes[0], int):
        return np.array(classes, dtype=np.int64), tuple(map(str, range(int(max(classes)) + 1)))
    names = tuple(sorted(set(map(str, classes))))
    number = {name: place for place, name in enumerate(names)}
    return np.array([number[str(name)] for name in classes], dtype=np.int64), names


def printable(name: str) -> str:
    """Returns a file system's name as text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")
