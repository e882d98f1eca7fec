"""Every color mode comes out as an upright picture in the wanted colors; what cannot be read says why."""

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.odd_images import ORIENTATION, encoded, noise, odd_files

from anybatch.data.images import decoding
from anybatch.data.images.decoding import decoded, opened, opened_file, upright_size
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


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "F", "LA"])
def test_colors_survive_their_mode(mode: str) -> None:
    grey = noise(20, 30, 1)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    kind = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG")
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


def with_values(values: np.ndarray, kind: str = "TIFF", **options: object) -> bytes:
    return encoded(Image.fromarray(values), kind, **options)


def greys(data: bytes) -> list[int]:
    return np.asarray(decoded(opened(data), 1)).ravel().tolist()


def test_floats_are_from_0_to_1_or_whole_numbers_of_8_bits() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert greys(with_values(ramp)) == list(range(256))
    assert greys(with_values(ramp * 255)) == list(range(256))
    assert np.asarray(decoded(opened(with_values(ramp)), 3))[15, 15].tolist() == [255] * 3


@pytest.mark.parametrize(
    "wrong", [[0, 1.02], [-1, 1], [0, 300], [0.25, 127.5], [0.5, np.nan], [np.nan, 0.5], [0, np.inf], [0, 1e-9, 4096]]
)
def test_other_floats_are_refused_with_their_range(wrong: list[float]) -> None:
    with pytest.raises(Unreadable, match=r"floating-point pixels from .* to .*; must be from 0 to 1"):
        greys(with_values(np.array([wrong], dtype=np.float32)))


def tiff(values: np.ndarray, bits: int, sample_format: int = 1, photometric: int = 1, wide: int = 0) -> bytes:
    """A TIFF of one uncompressed strip, which need not be of a kind that Pillow writes."""
    high, wide = len(values), wide or values.shape[1]
    data = values.tobytes()
    tags = [
        (256, 3, wide), (257, 3, high), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8 + 2 + 120 + 4),
        (277, 3, 1), (278, 3, high), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


def test_unsigned_greys_keep_their_upper_8_bits() -> None:
    sixteen = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert greys(with_values(sixteen)) == greys(with_values(sixteen, "PNG")) == [0, 0, 1, 255]
    assert greys(tiff(sixteen, 16, photometric=0)) == [255, 255, 254, 0], "white is zero"
    twelve = np.array([[0x80, 0x0F, 0xFF]], dtype=np.uint8)
    assert greys(tiff(twelve, 12, wide=2)) == [0x80, 0xFF], "two values in three bytes"
    assert greys(b"P5 2 1 65535\n\x01\x00\xff\xff") == [1, 255]
    assert greys(b"P5 2 1 1023\n\x00\x03\x03\xff") == [0, 255]


@pytest.mark.parametrize(("kind", "bits", "sample_format"), [("<i2", 16, 2), ("<i4", 32, 2), ("<u4", 32, 1)])
def test_signed_and_32_bit_pixels_are_refused(kind: str, bits: int, sample_format: int) -> None:
    values = np.array([[0, 100, 1000, 30_000]], dtype=kind)
    with pytest.raises(Unreadable, match="of 32 bits or with a sign"):
        greys(tiff(values, bits, sample_format))


def test_a_color_that_a_png_names_as_transparent_is_white() -> None:
    color = Image.new("RGB", (2, 1), (9, 8, 7))
    color.putpixel((1, 0), (9, 8, 6))
    data = encoded(color, "PNG", transparency=(9, 8, 7))
    assert np.asarray(decoded(opened(data), 3)).tolist() == [[[255] * 3, [9, 8, 6]]]
    assert greys(data) == [255, 8]
    assert greys(with_values(np.array([[5, 6]], dtype=np.uint8), "PNG", transparency=5)) == [255, 6]
    assert greys(with_values(np.array([[500, 512]], dtype=np.uint16), "PNG", transparency=500)) == [255, 2]
    assert greys(png(2, 0, b"\x1b", struct.pack(">H", 1))) == [0, 255, 170, 255], "grey levels of 2 bits"
    assert greys(png(4, 0, b"\x01\xe0", struct.pack(">H", 14))) == [0, 17, 255, 0], "and of 4"
    with pytest.raises(Unreadable, match="16-bit colors is transparent"):
        greys(png(16, 2, bytes(24), bytes(6)))


def png(depth: int, color_type: int, row: bytes, key: bytes) -> bytes:
    """A PNG of 4 x 1 pixels with a tRNS chunk."""
    header = struct.pack(">2I5B", 4, 1, depth, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def test_what_is_transparent_in_a_palette_is_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for place in range(3):
        palette.putpixel((place, 0), place)
    one, some = (encoded(palette, "PNG", transparency=key) for key in (1, bytes([255, 0, 128])))
    assert np.asarray(decoded(opened(one), 3))[0].tolist() == [[10, 20, 30], [255] * 3, [70, 80, 90]]
    assert np.asarray(decoded(opened(some), 3))[0].tolist() == [[10, 20, 30], [255] * 3, [162, 167, 172]]


def test_the_first_picture_of_several_counts() -> None:
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        data = encoded(first, kind, save_all=True, append_images=[second])
        assert np.abs(np.asarray(decoded(opened(data), 3), dtype=int) - (255, 0, 0)).max() <= 2, kind


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_every_format_is_turned_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(noise(16, 24)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright_size(opened(data)) == expected.size
    assert np.array_equal(decoded(opened(data), 3), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    data = data[: len(data) * 2 // 3]
    with pytest.raises(Unreadable):
        decoded(opened(data), 3)
    if kind != "JPEG":
        with pytest.raises(Unreadable):
            # Which decodes it: an error lost here is lost for ever, as Pillow then takes the picture for whole.
            upright_size(opened(data))


def as_pillow_shows(data: bytes, mode: str) -> Image.Image:
    """What Pillow gives if nothing of ours is asked: a fresh object, loaded once, which raises if it is damaged."""
    image = Image.open(io.BytesIO(data))
    image.load()
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image.convert("RGBA"))
    return image.convert("RGB").convert(mode) if image.mode == "LAB" else image.convert(mode)


def mutated(data: bytes, draw: random.Random) -> bytes:
    content = bytearray(data)
    kind = draw.randrange(4)
    place, length = draw.randrange(len(content)), draw.randrange(1, 40)
    if kind == 0:
        content[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        content[place : place + length] = draw.randbytes(length)
    elif kind == 2:
        del content[place:]
    else:
        del content[place : place + length]
    return bytes(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mutated_file_gives_what_pillow_gives_or_is_refused_as_pillow_refuses_it(channels: int) -> None:
    draw, mode = random.Random(channels), {1: "L", 3: "RGB"}[channels]
    accepted = refused = 0
    for name, content in FILES.items():
        if name.startswith("bad") or name in ("sixteen-bits.png", "huge.jpg"):
            continue
        for _ in range(12):
            data = mutated(content, draw)
            try:
                expected = as_pillow_shows(data, mode)
            except Exception:
                expected = None
            try:
                found = decoded(opened(data), channels)
            except Unreadable:
                refused += 1
                # What Pillow cannot do with a damaged EXIF block is no damage of the picture.
                assert expected is None, name
                continue
            accepted += 1
            assert expected is not None, name
            assert np.array_equal(found, expected), name
    assert accepted > 50
    assert refused > 50


def test_a_large_picture_is_converted_in_strips_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha.png", "palette-with-hole.png", "sixteen-bits.png", "cmyk.jpg", "lab.tiff", "grey-alpha.png"):
        whole = np.asarray(decoded(opened(FILES[name]), 3))
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_STRIP", 200)
            assert np.array_equal(decoded(opened(FILES[name]), 3), whole), name


def test_postscript_is_not_run() -> None:
    with pytest.raises(Unreadable, match="PostScript program"):
        opened(encoded(Image.new("RGB", (8, 8)), "EPS"))


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Unreadable, match="has 1,099,511,627,776 bytes"):
        opened_file(tmp_path / "hole.png")


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    header = encoded(Image.new("1", (1, 1)), "PNG")
    side = (60_000).to_bytes(4, "big")
    with pytest.raises(Unreadable, match="decompression bomb"):
        opened(_with_size(header, side + side))


def _with_size(png: bytes, size: bytes) -> bytes:
    body = b"IHDR" + size + png[24:29]
    return png[:12] + body + zlib.crc32(body).to_bytes(4, "big") + png[33:]
