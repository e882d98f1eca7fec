"""A small tree of images as they come from the world: every color mode, sizes from 1 x 1 up, damaged and misnamed."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from anybatch.data.images.decoding import opened
from anybatch.data.images.sets import ImageSet

ORIENTATION = 0x0112


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth random pixels, so that a JPEG of them is close to them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    image = Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def odd_files() -> dict[str, bytes]:
    """Name to content; those whose name begins with 'bad' cannot be read, all others can."""
    color = Image.fromarray(noise(40, 60))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = encoded(color, quality=95)
    palette = color.quantize(16)
    seen_through = color.convert("RGBA")
    seen_through.putalpha(Image.fromarray(noise(40, 60, 1)))
    sixteen = Image.fromarray(noise(40, 60, 1).astype(np.uint16) * 257)
    return {
        "color.jpg": whole,
        "grey.JPEG": encoded(color.convert("L")),
        "cmyk.jpg": encoded(color.convert("CMYK")),
        "turned.jpg": encoded(color, exif=exif),
        "progressive.jpg": encoded(color, progressive=True),
        "png-in-disguise.jpg": encoded(color, "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-with-hole.png": encoded(palette, "PNG", transparency=0),
        "alpha.png": encoded(seen_through, "PNG"),
        "grey-alpha.png": encoded(seen_through.convert("LA"), "PNG"),
        "one-bit.png": encoded(color.convert("1"), "PNG"),
        "sixteen-bits.png": encoded(sixteen, "PNG"),
        "moving.gif": encoded(color, "GIF", save_all=True, append_images=[color.rotate(90)]),
        "tiny.png": encoded(Image.fromarray(noise(1, 1)), "PNG"),
        "thin.png": encoded(Image.fromarray(noise(1, 300)), "PNG"),
        "tall.jpg": encoded(Image.fromarray(noise(500, 3))),
        "huge.jpg": encoded(Image.fromarray(noise(1200, 1600)), quality=60),
        "jpeg-in-disguise.png": whole,
        "with spaces, (brackets) & 'quotes'.jpg": whole,
        "brücke-橋-🌉.jpg": whole,
        "latin-1-\udce9.jpg": whole,
        "CAPITALS.JPG": whole,
        "more-behind-its-end.jpg": whole + bytes(1000),
        "lab.tiff": encoded(Image.new("LAB", (30, 20)), "TIFF"),
        "broken-exif.jpg": whole[:2] + b"\xff\xe1\x00\x10Exif\x00\x00broken!!" + whole[2:],
        "bad-truncated.jpg": whole[: len(whole) // 2],
        "bad-header-only.jpg": whole[:300],
        "bad-text.jpg": b"this is not an image\n" * 20,
        "bad-empty.png": b"",
        "bad-noise.png": np.random.default_rng(0).bytes(500),
        "bad-truncated.png": encoded(color, "PNG")[:200],
    }


def write_odd_tree(root: Path, copies: int = 1) -> tuple[int, int]:
    """train/CLASS/NAME and val/CLASS/NAME for three classes, one of them empty in val; (readable, unreadable) in train.

    A text file, a hidden file, and within a class a folder called like an image, a link to a folder, a link to nothing
    and a pipe are there, too.
    """
    files = odd_files()
    for part, classes in (("train", ("cat", "dog", "empty")), ("val", ("cat", "dog", "empty"))):
        for name in classes:
            (root / part / name).mkdir(parents=True)
    for copy in range(copies):
        for place, (name, content) in enumerate(files.items()):
            folder = root / "train" / ("cat", "dog")[place % 2] / f"more-{copy}"
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
            (root / "val" / ("cat", "dog")[place % 2] / f"{copy}-{name}").write_bytes(content)
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    cats = root / "train" / "cat"
    (cats / ".hidden.jpg").write_bytes(b"")
    (cats / "folder.jpg").mkdir()
    (cats / "folder.jpg" / "in-a-folder.jpg").write_bytes(files["color.jpg"])
    (cats / "link-to-a-folder").symlink_to(root / "val")
    (cats / "bad-link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(cats / "bad-pipe.jpg")
    unreadable = sum(name.startswith("bad") for name in files) * copies
    return len(files) * copies - unreadable + 1, unreadable + 2


def twelve_images() -> ImageSet:
    """JPEGs of several sizes, of which number 5 is damaged."""

    def image(index: int) -> Image.Image:
        data = encoded(Image.fromarray(noise(20 + index, 40, seed=index)))
        return opened(data[:200] if index == 5 else data)

    return ImageSet(np.arange(12, dtype=np.int64) % 3, ("a", "b", "c"), lambda index: f"image {index}", image)
