"""Which layout of images lies at a path, and which part of it is for training."""

from collections.abc import Callable, Sequence
from pathlib import Path

from anybatch.data.images.folder import FolderImages
from anybatch.data.images.idx import read_idx
from anybatch.data.images.parquet import ParquetImages
from anybatch.data.images.sets import ImageSet, check_same_classes
from anybatch.data.images.tar import TarImages
from anybatch.errors import InputError

_HELD_OUT = ("val", "valid", "validation", "test", "t10k")
_IDX_IMAGES = ("*-images-idx3-ubyte", "*-images-idx3-ubyte.gz", "*-images.idx3-ubyte", "*-images.idx3-ubyte.gz")


def find_images(path: Path) -> tuple[ImageSet, ImageSet | None]:
    """The images for training and those held out, or None where `path` does not part them.

    Known are, by what lies in the folder `path`:

        train/CLASS/..., val/CLASS/...             folders of image files; CLASS/... alone is one undivided set
        train*.parquet, test*.parquet              Hugging Face, also in data/
        train*.tar, val*.tar                       webdataset
        train-images-idx3-ubyte, t10k-...          MNIST

    The held-out part may be called val, valid, validation, test or t10k.

    Raises:
        InputError: there is nothing of the kind, or what there is cannot be read.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: {'is a file; name the folder that it lies in' if path.exists() else 'no such folder'}"
        )
    for find in (_idx, _parquet, _tar, _folders):
        parts = find(path)
        if parts is not None:
            training, held_out = parts
            if held_out is not None:
                check_same_classes(training, held_out, path)
            return training, held_out
    raise InputError(
        f"{path}: no images in a layout that is known: train/CLASS/*.jpg, train*.parquet, train*.tar or "
        "train-images-idx3-ubyte"
    )


Parts = tuple[ImageSet, ImageSet | None]


def _idx(path: Path) -> Parts | None:
    files = [file for pattern in _IDX_IMAGES for file in sorted(path.glob(pattern))]
    return _parted(path, files, lambda part: read_idx(part[0], _labels_of(part[0])))


def _parquet(path: Path) -> Parts | None:
    return _parted(path, sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet")), ParquetImages.of)


def _tar(path: Path) -> Parts | None:
    return _parted(path, sorted(path.glob("*.tar")), TarImages.of)


def _folders(path: Path) -> Parts | None:
    if (path / "train").is_dir():
        held_out = next((path / name for name in _HELD_OUT if (path / name).is_dir()), None)
        return FolderImages.of(path / "train"), FolderImages.of(held_out) if held_out else None
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        return FolderImages.of(path), None
    return None


def _parted(path: Path, files: Sequence[Path], read: Callable[[Sequence[Path]], ImageSet]) -> Parts | None:
    """Files called after the part that they belong to; where none is, all are one set."""
    if not files:
        return None
    training = [file for file in files if file.name.startswith("train")]
    held_out: list[Path] = []
    for name in _HELD_OUT:
        held_out = held_out or [file for file in files if file.name.startswith(name)]
    if not training and held_out:
        raise InputError(f"{path}: {held_out[0].name} is there, but nothing whose name begins with train")
    return read(training or files), read(held_out) if held_out else None


def _labels_of(images: Path) -> Path:
    return images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
