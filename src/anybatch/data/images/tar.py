"""Images in tar shards, as webdataset writes them: KEY.jpg beside KEY.cls; or a tree of folders, CLASS/NAME.jpg."""

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from anybatch.data.images.decoding import opened_file
from anybatch.data.images.folder import SUFFIXES
from anybatch.data.images.sets import MOST_CLASSES, ImageSet, numbered, printable
from anybatch.errors import InputError, one_line

# Bytes: of a long name or an extended header, of a class in a .cls, and of the padding after the end.
_MOST_HEADER = _MOST_PADDING = 2**20
_MOST_CLS = 32
_ABOUT_THE_SHARD = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class _Member:
    """The place of an image."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}: {printable(self.name)}"


def tar_images(shards: Sequence[Path]) -> ImageSet:
    """Finds the images in uncompressed `shards`, in one pass over the headers; any can then be read at once.

    If a shard has .cls members, its samples are webdataset's. A member's key is its name up to the first dot after
    the last slash; the rest is its field. The image of a key is the field named like an image; its class is the
    number in the field `cls`. Otherwise the shard is a tree of folders, and an image's class is its folder.

    Raises:
        InputError: a shard is damaged or packed, a name is repeated, or a key does not have one image and one class.
    """
    members: list[_Member] = []
    classes: list[Any] = []
    notes: list[str] = []
    for path in shards:
        for member, label in _images(path, notes):
            members.append(member)
            classes.append(label)
        if len(set(map(type, classes))) > 1:
            raise InputError(f"{path}: some images have a .cls beside them, others do not")
    if not members:
        raise InputError("; ".join([f"{shards[0]}: no image in it", *notes[:1]]))

    def image(index: int) -> Image.Image:
        member = members[index]
        return opened_file(member.shard, member.offset, member.size)

    return ImageSet(*numbered(classes), lambda index: str(members[index]), image, tuple(notes))


def key_and_field(name: str) -> tuple[str, str]:
    """Returns ('a/b', 'seg.png') of 'a/b.seg.png': webdataset's rule. No field: no dot; no key: a hidden name."""
    folder, slash, base = name.rpartition("/")
    key, _, field_of = base.partition(".")
    return (folder + slash + key if key else ""), field_of.lower()


def _images(path: Path, notes: list[str]) -> list[tuple[_Member, int | str]]:
    """Returns the images of a shard, in order, each with its number or its folder; adds skipped members to `notes`."""
    images: dict[str, dict[str, _Member]] = defaultdict(dict)
    classes: dict[str, int] = {}
    samples = False
    seen: set[tuple[str, str]] = set()
    left_out: dict[tuple[str, str], list[str]] = defaultdict(list)
    for info, content in _members(path):
        key, field = key_and_field(info.name)
        ending = field.rpartition(".")[2]
        if not key or _ABOUT_THE_SHARD.match(info.name):
            continue
        if not info.isfile():
            left_out["a link or no file, which is not followed", field].append(info.name)
            continue
        if (key, field) in seen:
            raise InputError(f"{path}: {printable(info.name)} occurs twice in it; names must differ within a shard")
        seen.add((key, field))
        samples |= ending == "cls"
        if field == "cls":
            classes[key] = _class(content, path, info.name)
        elif "." + ending in SUFFIXES:
            images[key][field] = _Member(path, info.name, info.offset_data, info.size)
        else:
            left_out["not named like an image", field].append(info.name)
    found: list[tuple[_Member, int | str]] = []
    for key, pictures in images.items():
        own = {field: member for field, member in pictures.items() if "." not in field}
        if samples:
            found.append(_sample(key, own or pictures, classes))
        elif (key, "json") in seen:
            raise InputError(
                f"{path}: {printable(key)}.json is beside an image, and no field of it is known to be the class; write "
                f"the class to {printable(key)}.cls, as a number"
            )
        else:
            found += [(member, _folder(member)) for member in (own or pictures).values()]
        for field in pictures.keys() - own.keys() if own else ():
            left_out["a field of a key that has its image", field].append(pictures[field].name)
    for key in classes.keys() - images.keys():
        left_out["a class without an image", "cls"].append(f"{key}.cls")
    for (why, field), names in left_out.items():
        more = f" and {len(names) - 1:,} more of .{field}" if len(names) > 1 else ""
        notes.append(f"{path}: {printable(min(names))}{more}: {why}")
    return sorted(found, key=lambda pair: pair[0].offset)


def _sample(key: str, pictures: dict[str, _Member], classes: dict[str, int]) -> tuple[_Member, int]:
    """Returns the one image of a key and its class."""
    (field, member), *others = pictures.items()
    if "." in field:
        raise InputError(
            f"{member}: a key ends at the first dot of a name, so this is the field {field} of the key "
            f"{printable(key)}, which has no image of its own; write names with one dot"
        )
    if others:
        raise InputError(f"{member} and {printable(others[0][1].name)} are of one key; a key has one image")
    if key not in classes:
        raise InputError(f"{member} has no class: no {printable(key)}.cls is in the shard")
    return member, classes[key]


def _folder(member: _Member) -> str:
    folder = member.name.rpartition("/")[0].rpartition("/")[2]
    if folder in ("", "."):
        raise InputError(f"{member} has no class: neither a .cls beside it nor a folder")
    return printable(folder)


class _Headers(io.FileIO):
    """A file that is read by at most a header's length at a time, whatever length a header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size) or b""


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yields the files and links of a shard, and the content of a .cls.

    Python's tarfile takes a damaged header, and anything that is no header, for the end of the archive.
    """
    place = 0
    try:
        with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # Earlier members are not needed again.
                archive.members.clear()  # type: ignore[attr-defined]
                place = member.offset
                if member.size < 0 or member.issparse():
                    raise tarfile.ReadError("a sparse file" if member.issparse() else "a negative size")
                if not member.isdir():
                    content = b""
                    if member.isreg() and member.name.lower().endswith(".cls"):
                        file.seek(member.offset_data)
                        content = file.read(min(member.size, _MOST_CLS + 1))
                    yield member, content
                place = archive.offset
            _check_end(file, place)
    except InputError:
        raise
    # A hostile or damaged file can make a parser fail in any way.
    except Exception as error:
        what = f"not an uncompressed tar file, or damaged at byte {place:,} ({one_line(error)})"
        raise InputError(f"{path}: {what}; unpack it, or copy it again") from None


def _check_end(file: _Headers, place: int) -> None:
    """Raises ReadError if the archive does not end as it should, in blocks of zeros with nothing after them."""
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    if size - place > _MOST_PADDING:
        raise tarfile.ReadError(f"{size - place:,} bytes follow its end")
    rest = file.read(_MOST_PADDING)
    if not rest:
        raise tarfile.ReadError("it ends without its end mark")
    if rest[:512].strip(b"\0"):
        raise tarfile.ReadError("bad header")
    if rest.strip(b"\0"):
        raise tarfile.ReadError("something follows its end, as if two archives were put together")


def _class(text: bytes, path: Path, name: str) -> int:
    try:
        number = int(text) if len(text) <= _MOST_CLS else -1
    except ValueError:
        number = -1
    if not 0 <= number < MOST_CLASSES:
        raise InputError(f"{path}: {printable(name)}: {text!r} is not the number of a class, below {MOST_CLASSES:,}")
    return number
