"""Images in a tree of folders, one a class, in ImageNet's layout: CLASS/anything/NAME.jpg."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anybatch.data.images.decoding import opened_file
from anybatch.data.images.sets import ImageSet, printable
from anybatch.errors import InputError

# Only names decide which files are read; Pillow detects a file's format from its content.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
)
# The end of the note about such a class.
WITHOUT_IMAGES = "a class without images"


def folder_images(root: Path) -> ImageSet:
    """Finds every file below `root` named like an image, sorted; its class is the folder directly below `root`.

    A class keeps its number if its folder is empty. Hidden files and folders do not count. A note names what is
    skipped: files that are not named like images, files beside the folders of the classes, links to folders within a
    class, and folders that cannot be listed.

    Raises:
        InputError: there is no folder of a class, or no image in any.
    """
    entries = sorted((entry.name, entry.is_dir()) for entry in os.scandir(root) if not entry.name.startswith("."))
    names = [name for name, is_folder in entries if is_folder]
    inside = os.path.realpath(root)
    for name in filter(lambda name: os.path.islink(root / name), names):
        target = os.path.realpath(root / name)
        if os.path.commonpath([target, inside]) == target:
            raise InputError(f"{printable(str(root / name))}: links to a folder that it lies in itself; remove it")
    if not names:
        raise InputError(f"{root}: has no folders; expected one a class, with images in it")
    files: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    missed: list[str] = []
    for label, name in enumerate(names):
        for file in _below(root / name, missed):
            kept = Path(file).suffix.lower() in SUFFIXES
            (files if kept else others).append(os.path.relpath(file, root))
            if kept:
                labels.append(label)
    if not files:
        raise InputError(f"{root}: no image in any of its {len(names)} folders ({', '.join(sorted(SUFFIXES))})")
    empty = set(range(len(names))) - set(labels)
    notes = [f"{root / names[number]}: {WITHOUT_IMAGES}" for number in sorted(empty)]
    notes += [f"{root / name}: in no folder of a class" for name, is_folder in entries if not is_folder]
    notes += [f"{root / file}: not named like an image" for file in others]
    return ImageSet(
        np.array(labels, dtype=np.int64),
        tuple(map(printable, names)),
        lambda index: printable(str(root / files[index])),
        lambda index: opened_file(root / files[index]),
        tuple(map(printable, notes + missed)),
    )


def _below(folder: Path, missed: list[str]) -> Iterator[str]:
    """Yields the files below `folder`, sorted; adds what it cannot look into to `missed`, with the reason."""

    def unlisted(error: OSError) -> None:
        missed.append(f"{error.filename}: {error.strerror}")

    for path, folders, names in os.walk(folder, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [link for name in folders if os.path.islink(link := os.path.join(path, name))]
        missed += [f"{link}: a link to a folder, which is not followed" for link in links]
        yield from (os.path.join(path, name) for name in sorted(names) if not name.startswith("."))
