"""Every colour mode comes out as an upright picture in the wanted colours; what cannot be read says why."""

import numpy as np
import pytest
from data.images.odd_images import ORIENTATION, encoded, noise, odd_files
from PIL import Image

from anybatch.data.images.decoding import decoded, opened, upright_size
from anybatch.data.images.sets import Unreadable

FILES = odd_files()


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("bad")])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_readable_file_is_read(name: str, channels: int) -> None:
    picture = decoded(opened(FILES[name]), channels)
    assert picture.mode == {1: "L", 3: "RGB"}[channels]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("bad")])
def test_every_other_file_says_why_not(name: str) -> None:
    with pytest.raises(Unreadable, match=r"\w{3,}"):
        decoded(opened(FILES[name]), 3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "I", "F", "LA"])
def test_colours_survive_their_mode(mode: str) -> None:
    grey = noise(20, 30, 1)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    kind = {"CMYK": "JPEG", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    options = {"quality": 95} if kind == "JPEG" else {}
    found = np.asarray(decoded(opened(encoded(image, kind, **options)), 3), dtype=int)
    assert np.abs(found - grey[:, :, None]).max() <= 8


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    found = np.asarray(decoded(opened(encoded(image, "PNG")), 3))
    assert found[0, 0].tolist() == [0, 0, 255]
    assert found[1:].min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_whatever_way_the_camera_was_held(orientation: int) -> None:
    upright = np.zeros((16, 24), dtype=np.uint8)
    upright[:8, :8] = 255
    turn = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = Image.fromarray(upright)
    stored = stored if turn is None else stored.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = opened(encoded(stored, "JPEG", exif=exif, quality=95))
    assert upright_size(image) == (24, 16)
    found = np.asarray(decoded(image, 1), dtype=int)
    assert found.shape == (16, 24)
    assert np.abs(found - upright).max() < 40


def test_a_large_jpeg_is_decoded_no_larger_than_it_takes() -> None:
    data = encoded(Image.fromarray(noise(800, 1200)))
    assert decoded(opened(data), 3).size == (1200, 800)
    small = decoded(opened(data), 3, least=(250, 150))
    assert small.size == (300, 200)
    assert decoded(opened(data), 3, least=(1200, 800)).size == (1200, 800)


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    header = encoded(Image.new("1", (1, 1)), "PNG")
    side = (60_000).to_bytes(4, "big")
    with pytest.raises(Unreadable, match="decompression bomb"):
        opened(_with_size(header, side + side))


def _with_size(png: bytes, size: bytes) -> bytes:
    import zlib

    body = b"IHDR" + size + png[24:29]
    return png[:12] + body + zlib.crc32(body).to_bytes(4, "big") + png[33:]
