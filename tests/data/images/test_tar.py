"""Tar shards: webdataset's samples or a tree of folders, whole to the last byte or refused."""

import io
import random
import re
import string
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.odd_images import encoded, noise

from anybatch.data.images import tar
from anybatch.data.images.decoding import decoded
from anybatch.data.images.sets import ImageSet, printable
from anybatch.data.images.tar import key_and_field, tar_images
from anybatch.errors import InputError

PNGS = [encoded(Image.fromarray(noise(6, 6, seed=seed)), "PNG") for seed in range(6)]
Members = list[tuple[str, bytes]]


def shard(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def numbered(*classes: int, name: str = "{}") -> Members:
    return [
        member
        for place, number in enumerate(classes)
        for member in ((name.format(place) + ".png", PNGS[place]), (name.format(place) + ".cls", b"%d" % number))
    ]


def content(images: ImageSet) -> list[tuple[str, str, bytes]]:
    return [
        (images.name(place).split(": ")[1], images.classes[label], decoded(images.image(place), 3).tobytes())
        for place, label in enumerate(images.labels)
    ]


def test_a_sample_is_a_key_with_one_image_and_one_class(tmp_path: Path) -> None:
    members = [("x/b.PNG", PNGS[1]), *numbered(1, 0), ("x/b.CLS", b" 2\n"), ("x/b.json", b"{}")]
    images = tar_images([shard(tmp_path / "a.tar", members)])
    pixels = [noise(6, 6, seed=seed).tobytes() for seed in range(2)]
    assert content(images) == [("x/b.PNG", "2", pixels[1]), ("0.png", "1", pixels[0]), ("1.png", "0", pixels[1])]
    assert images.notes == (f"{tmp_path / 'a.tar'}: x/b.json: not named like an image",)


def test_masks_are_fields_of_the_key_and_noted(tmp_path: Path) -> None:
    masks = [(f"{n}.seg.png", PNGS[5]) for n in range(4)]
    images = tar_images([shard(tmp_path / "a.tar", [*numbered(0, 1, 0, 1), *masks])])
    assert [name for name, _, _ in content(images)] == ["0.png", "1.png", "2.png", "3.png"]
    assert [note.split(": ", 1)[1] for note in images.notes] == [
        "0.seg.png and 3 more of .seg.png: a field of a key that has its image"
    ]
    tree = tar_images([shard(tmp_path / "b.tar", [("dog/0.png", PNGS[0]), ("dog/0.seg.png", PNGS[5])])])
    assert [name for name, _, _ in content(tree)] == ["dog/0.png"]


def test_in_a_tree_of_folders_dots_are_a_part_of_the_name(tmp_path: Path) -> None:
    names = ["n01/im.000.png", "n01/im.001.png", "n02/im.000.png", "n02/1.png", "n02/1.jpg"]
    tree = tar_images([shard(tmp_path / "a.tar", [(name, PNGS[0]) for name in names])])
    assert [(name, kind) for name, kind, _ in content(tree)] == [(name, name[:3]) for name in names]


def test_the_same_key_in_two_shards_is_two_samples(tmp_path: Path) -> None:
    first, second = (shard(tmp_path / f"{n}.tar", numbered(n, 1 - n)) for n in range(2))
    images = tar_images([first, second])
    assert images.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_names_of_any_script_are_read(tmp_path: Path, form: int) -> None:
    name = "d" * 90 + "/" + "n" * 150 + "-橋-{}"
    images = tar_images([shard(tmp_path / "a.tar", numbered(0, 1, 0, name=name), form)])
    assert [row[:2] for row in content(images)] == [(name.format(n) + ".png", str(n % 2)) for n in range(3)]


def test_links_and_classes_without_images_are_noted(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [*numbered(0, 1), ("9.cls", b"1")])
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("2.png")
        info.type, info.linkname = tarfile.LNKTYPE, "0.png"
        archive.addfile(info)
    notes = [note.split(": ", 1)[1] for note in tar_images([path]).notes]
    assert notes == ["2.png: a link or no file, which is not followed", "9.cls: a class without an image"]


def changed(change: Callable[[bytearray], object]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        data = bytearray(shard(path, numbered(0, 1, 0)).read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return make


def header(data: bytearray, place: int, start: int, value: bytes) -> None:
    """Writes into the header at `place`, and its checksum, so that it is a sound header of something else."""
    data[place + start : place + start + len(value)] = value
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])


def sparse(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("0.png")
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40), "GNU.sparse.name": "0.png"}
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return path


WRONG = {
    "dots in keys": (
        lambda path: shard(path, numbered(0, 1, name="n01.00{}")),
        r"n01.000.png: a key ends at the first dot of a name, so this is the field 000.png of the key n01",
    ),
    "a class in a .json": (
        lambda path: shard(path, [("0.png", PNGS[0]), ("0.json", b'{"label": 1}')]),
        "0.json is beside an image, and no field of it is known to be the class; write the class to 0.cls",
    ),
    "a class in a .json, or the folder": (
        lambda path: shard(path, [("a/0.png", PNGS[0]), ("a/0.json", b'{"label": 1}')]),
        "write the class to a/0.cls, as a number",
    ),
    "a name twice": (lambda path: shard(path, [*numbered(0, 1), *numbered(1)]), "0.png occurs twice in it"),
    "a name twice, but for its case": (
        lambda path: shard(path, [*numbered(0, 1), ("0.PNG", PNGS[0])]),
        "0.PNG occurs twice in it",
    ),
    "two images of a key": (
        lambda path: shard(path, [*numbered(0, 1), ("0.jpg", PNGS[0])]),
        "0.png and 0.jpg are of one key; a key has one image",
    ),
    "an image without a class": (
        lambda path: shard(path, [*numbered(0, 1), ("d/9.png", PNGS[0])]),
        "d/9.png has no class: no d/9.cls is in the shard",
    ),
    "nothing but other files": (
        lambda path: shard(path, [("inner.tar", b""), ("more.tar", b"")]),
        "no image in it; .*inner.tar and 1 more of .tar: not named like an image",
    ),
    "a class of too many digits": (
        lambda path: shard(path, [("0.png", PNGS[0]), ("0.cls", b"0" * 40)]),
        "is not the number of a class",
    ),
    "a damaged header": (
        changed(lambda data: data.__setitem__(1024, data[1024] ^ 1)),
        r"damaged at byte 1,024 \(bad header",
    ),
    "a header of zeros": (
        changed(lambda data: data.__setitem__(slice(1024, 1536), bytes(512))),
        r"damaged at byte 1,024 \(something follows its end",
    ),
    "cut within a member": (changed(lambda data: data.__delitem__(slice(3072 - 500, None))), "unexpected end of data"),
    "cut within a header": (changed(lambda data: data.__delitem__(slice(1024 + 200, None))), "bad header"),
    "cut between members": (changed(lambda data: data.__delitem__(slice(1024, None))), "without its end mark"),
    "two archives put together": (changed(lambda data: data.extend(bytes(data))), "two archives were put together"),
    "a large hole behind the end": (changed(lambda data: data.extend(bytes(2**21))), "bytes follow its end"),
    "a negative size": (
        changed(lambda data: header(data, 1024, 124, b"\xff" * 11 + b"\x00")),
        r"damaged at byte 1,024 \(a negative size",
    ),
    "a long name of 8 GB": (
        changed(lambda data: [header(data, 1024, 124, b"77777777777\0"), header(data, 1024, 156, b"L")]),
        "a header of 8,589,934,592 bytes",
    ),
    "a long name of a negative size": (
        changed(lambda data: [header(data, 1024, 124, b"\xff" * 10 + b"\xfc\x00"), header(data, 1024, 156, b"L")]),
        "a header of",
    ),
    "a sparse file": (sparse, "a sparse file"),
    "packed": (lambda path: tarfile.open(path, "w:gz").close() or path, "not an uncompressed tar file"),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str) -> None:
    make, message = WRONG[name]
    path = make(tmp_path / "train.tar")
    with pytest.raises(InputError, match=message) as caught:
        tar_images([path])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_keys_are_those_of_webdataset() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        name = "".join(draw.choices("ab./_é", k=draw.randrange(1, 10)))
        found = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
        if name.rpartition("/")[2].startswith("."):
            assert key_and_field(name)[0] == "", "hidden"
        elif found is None:
            assert key_and_field(name)[1] == "" or not key_and_field(name)[0], name
        else:
            assert key_and_field(name) == (found[1], found[2].lower()), name


def test_an_accepted_mutation_has_the_members_that_tarfile_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "opened_file", lambda path, offset, size: path.read_bytes()[offset : offset + size])
    draw = random.Random(0)
    sound = shard(tmp_path / "a.tar", numbered(0, 1, 0, 1, name="{}-" + string.ascii_letters * 3)).read_bytes()
    accepted = refused = 0
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(draw.randrange(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / "mutated.tar"
        path.write_bytes(data if draw.random() < 0.8 else data[: draw.randrange(1, len(data))])
        try:
            images = tar_images([path])
        except InputError:
            refused += 1
            continue
        accepted += 1
        with tarfile.open(path) as archive:
            expected = {
                member.name: archive.extractfile(member).read() for member in archive if member.name.endswith(".png")
            }
            labels = {
                member.name: int(archive.extractfile(member).read())
                for member in archive
                if member.name.endswith(".cls")
            }
        names = [images.name(place).split(": ", 1)[1] for place in range(len(images.labels))]
        assert names == list(map(printable, expected))
        for place, (name, label) in enumerate(zip(expected, images.labels, strict=True)):
            assert images.image(place) == expected[name]
            assert labels[name.replace(".png", ".cls")] == label
    assert accepted > 10
    assert refused > 20
