"""Detects the layout of the images at a path, and which part of them is for training."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from anybatch.data.images.folder import folder_images
from anybatch.data.images.idx import read_idx
from anybatch.data.images.parquet import parquet_images
from anybatch.data.images.sets import ImageSet, printable, with_classes_of
from anybatch.data.images.tar import tar_images
from anybatch.errors import InputError

_TRAINING = ("train", "training")
_HELD_OUT = ("val", "valid", "validation", "test", "testing", "t10k")
_IDX_IMAGES = ("*-images-idx3-ubyte", "*-images-idx3-ubyte.gz", "*-images.idx3-ubyte", "*-images.idx3-ubyte.gz")

_PACKED = ("*.tgz", "*.tar.gz", "*.tar.bz2", "*.tar.xz", "*.tar.zst")


def find_images(path: Path) -> tuple[ImageSet, ImageSet | None]:
    """Finds the images for training and the held-out ones, or None if `path` does not separate them.

    The layouts, detected by the content of the folder `path`:

        train/CLASS/..., val/CLASS/...             folders of image files; CLASS/... alone is one undivided set
        train*.parquet, test*.parquet              Hugging Face, also in data/
        train*.tar, val*.tar                       webdataset
        train-images-idx3-ubyte, t10k-...          MNIST

    The held-out part may be called val, valid, validation, test, testing or t10k. A file's name may have other words
    before it: emnist-digits-test-images-idx3-ubyte.

    Raises:
        InputError: there is no such layout, it cannot be read, or a file belongs to no part while others do.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: {'is a file; name the folder that it lies in' if path.exists() else 'no such folder'}"
        )
    for find in (_idx, _parquet, _tar, _folders):
        parts = find(path)
        if parts is not None:
            training, held_out, others = parts
            notes = [f"{path / printable(name)}: of neither part that is read, and left out" for name in others]
            training = replace(training, notes=(*training.notes, *notes))
            return training, held_out and with_classes_of(training, held_out, path)
    raise InputError(
        f"{path}: no images in a layout that is known: train/CLASS/*.jpg, train*.parquet, train*.tar or "
        "train-images-idx3-ubyte"
    )


# For training, held out, and the names of what is left out.
Parts = tuple[ImageSet, ImageSet | None, list[str]]


def _idx(path: Path) -> Parts | None:
    files = [file for pattern in _IDX_IMAGES for file in sorted(path.glob(pattern))]
    return _parted(path, files, lambda part: _one_idx(path, part))


def _parquet(path: Path) -> Parts | None:
    return _parted(path, sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet")), parquet_images)


def _tar(path: Path) -> Parts | None:
    packed = [file for kind in _PACKED for file in sorted(path.glob(kind))]
    if packed:
        raise InputError(
            f"{packed[0]}: unpack it to a .tar (gunzip, xz -d, zstd -d): images are read at any place of it"
        )
    return _parted(path, sorted(path.glob("*.tar")), tar_images)


def _folders(path: Path) -> Parts | None:
    """Reads folders named like parts, in letters of any case; if there are none, each folder is a class."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    if not names:
        return None
    training, held_out = (
        [name for part in parts for name in names if name.lower() == part] for parts in (_TRAINING, _HELD_OUT)
    )
    for one, two in zip(training + held_out, (training + held_out)[1:], strict=False):
        if one.lower() == two.lower() or two in training:
            raise InputError(f"{path}: {one} and {two} are of one part; put them into one folder")
    if training:
        others = [name for name in names if name not in (training[0], *held_out[:1])]
        return folder_images(path / training[0]), folder_images(path / held_out[0]) if held_out else None, others
    called = [[name for name in names if _words(name) & set(parts)] for parts in (_TRAINING, _HELD_OUT)]
    if held_out or all(called):
        parts_of_it = ", ".join(printable(name) for some in called for name in some[:1])
        raise InputError(
            f"{path}: {parts_of_it}: called like a part of the images, not like a class; call the folders of the parts "
            "train and val, or give classes other names"
        )
    return folder_images(path), None, []


def _parted(path: Path, files: Sequence[Path], read: Callable[[Sequence[Path]], ImageSet]) -> Parts | None:
    """Reads files named after their part; if none is, all files are one set."""
    if not files:
        return None
    if odd := next((file for file in files if not file.is_file()), None):
        # Reading a pipe would wait.
        raise InputError(f"{odd}: is called like a file of images, but is none; move it away")

    def called(*parts: str) -> list[Path]:
        """Returns the files with a word in their name that begins so: 'imagenet1k-validation-00.tar' is of 'val'."""
        return [file for file in files if any(word.startswith(parts) for word in _words(file.name))]

    training, parts = called("train"), called("train", *_HELD_OUT)
    held_out = next(filter(None, ([file for file in called(name) if file not in training] for name in _HELD_OUT)), [])
    if not training and held_out:
        raise InputError(f"{path}: {held_out[0].name} is there, but nothing whose name has train in it")
    if training and len(parts) < len(files):
        odd = next(file for file in files if file not in parts)
        raise InputError(
            f"{path}: {odd.name} is neither for training nor held out, as its name says nothing; rename it or move it "
            "away"
        )
    others = [file.name for file in files if training and file not in training + held_out]
    return read(training or files), read(held_out) if held_out else None, others


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _one_idx(path: Path, files: Sequence[Path]) -> ImageSet:
    if len(files) > 1:
        raise InputError(
            f"{path}: {files[0].name} and {files[1].name} are of one part; leave one pair of IDX files for training "
            "and one held out"
        )
    labels = files[0].with_name(files[0].name.replace("images", "labels").replace("idx3", "idx1"))
    if not labels.is_file():
        raise InputError(f"{files[0]}: its labels, {labels.name}, are missing")
    return read_idx(files[0], labels)
