"""Rectangles have the area and the aspect that they should, and always fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anybatch.data.images.views import CROP_WORDS, center_box, cut_out, random_resized_box, uniform
from anybatch.data.sampling import random_words


def boxes(width: int, height: int, smallest: float, count: int) -> np.ndarray:
    words = random_words(0, "test", np.zeros(count), np.arange(count), CROP_WORDS)
    return np.array([random_resized_box(width, height, (smallest, 1.0), row) for row in words])


@settings(deadline=None, max_examples=50)
@given(width=st.integers(1, 2000), height=st.integers(1, 2000), smallest=st.floats(0.01, 1))
def test_a_rectangle_lies_in_the_picture(width: int, height: int, smallest: float) -> None:
    left, top, right, bottom = boxes(width, height, smallest, 20).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    assert (right > left).all()
    assert (bottom > top).all()


def test_areas_and_aspects_are_spread_as_they_should_be() -> None:
    left, top, right, bottom = boxes(1000, 1000, 0.08, 4000).T
    area = (right - left) * (bottom - top) / 1e6
    aspect = np.log((right - left) / (bottom - top))
    assert area.min() >= 0.079
    assert 0.07 < area.min() < 0.1
    # Large rectangles of another aspect do not fit and are drawn again, which costs the uniform law its upper end.
    assert abs(area[area < 0.75].mean() - (0.08 + 0.75) / 2) < 0.01
    assert abs(aspect.mean()) < 0.01
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.01
    middle = (left + right) / 2
    assert abs(middle.mean() - 500) < 10


def test_a_thin_picture_falls_back_to_its_middle() -> None:
    assert boxes(1000, 10, 0.9, 5).tolist() == [[493, 0, 506, 10]] * 5


def test_the_middle_is_what_resizing_to_256_and_cutting_224_sees() -> None:
    assert center_box(512, 256, 224 / 256) == (144, 16, 368, 240)
    assert center_box(1, 1, 0.875) == (0, 0, 1, 1)


def test_cutting_without_resizing_keeps_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(cut_out(Image.fromarray(pixels), (0, 0, 8, 8), 8, 3), pixels)
    part = cut_out(Image.fromarray(pixels), (2, 1, 6, 5), 4, 3)
    assert np.array_equal(part, pixels[1:5, 2:6])


@pytest.mark.parametrize("low", [0.0, 0.5])
def test_words_become_numbers_below_one(low: float) -> None:
    numbers = uniform(random_words(0, "u", np.zeros(2000), np.arange(2000), 1))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs((numbers >= low).mean() - (1 - low)) < 0.05
