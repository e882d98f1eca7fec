"""An example is the same whoever else is in its batch, and another in another epoch."""

import itertools

import numpy as np
import pytest
import torch
from support.odd_images import twelve_images

from anybatch.data.images.idx import digits
from anybatch.data.images.sets import folded
from anybatch.data.images.source import NO_LABEL, ImageSource, Mixing, Normalization, late_batches
from anybatch.data.images.views import Cropping, FileViews, MemoryViews, decode_all
from anybatch.errors import InputError

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
LABELS = np.arange(12, dtype=np.int64) % 3


def ignore(name: str, reason: str) -> None:
    """Some images are meant to be skipped."""


def memory(cropping: Cropping, **options: object) -> ImageSource:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return ImageSource(MemoryViews(pixels, cropping, NORMALIZATION.mean, 7), LABELS, NORMALIZATION, 7, **options)


def files(training: bool = True, **options: object) -> ImageSource:
    cropping = Cropping(crop="resized", flip=True)
    views = FileViews(twelve_images(), 8, 3, cropping, 7, ignore, training)
    return ImageSource(views, LABELS, NORMALIZATION, 7, **options)


SOURCES = {
    "plain": lambda: memory(Cropping()),
    "padded": lambda: memory(Cropping(crop="padded", padding=3, flip=True)),
    "reflected": lambda: memory(
        Cropping(crop="padded", padding=3, padding_mode="reflect", flip=True), mixing=Mixing(cutout=3)
    ),
    "mixup": lambda: memory(Cropping(crop="padded", padding=2), mixing=Mixing(mixup=0.4)),
    "cutmix": lambda: memory(Cropping(flip=True), mixing=Mixing(cutmix=1.0)),
    "both": lambda: memory(Cropping(flip=True), mixing=Mixing(mixup=0.2, cutmix=1.0)),
    "files": lambda: files(),
    "mixed files": lambda: files(mixing=Mixing(mixup=0.2, cutmix=1.0, cutout=2)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_example_does_not_depend_on_its_batch(name: str) -> None:
    source = SOURCES[name]()
    epochs, examples = np.array([0, 0, 3, 3, 1]), np.array([4, 5, 4, 11, 0])
    together = source.batch(epochs, examples)
    assert together.inputs["images"].shape == (5, 3, 8, 8)
    assert together.inputs["images"].is_contiguous(memory_format=torch.channels_last)
    for place in range(5):
        alone = source.batch(epochs[[place]], examples[[place]])
        for key, value in alone.inputs.items():
            assert torch.equal(value[0], together.inputs[key][place]), key
    assert together.num_targets["label"] == sum(
        source.batch(epochs[[place]], examples[[place]]).num_targets["label"] for place in range(5)
    )
    if name != "plain":
        assert not torch.equal(together.inputs["images"][0], together.inputs["images"][2]), (
            "another epoch, another view"
        )


def test_a_padded_window_is_a_shifted_and_perhaps_mirrored_picture() -> None:
    views = memory(Cropping(crop="padded", padding=2, flip=True)).views
    pixels = views.pixels
    shown, _ = views(np.arange(40), np.zeros(40, dtype=np.int64))
    mean = np.rint(np.array(NORMALIZATION.mean) * 255).astype(np.uint8)
    padded = np.broadcast_to(mean, (12, 12, 3)).copy()
    padded[2:10, 2:10] = pixels[0]
    windows = {}
    for top, left in itertools.product(range(5), range(5)):
        window = padded[top : top + 8, left : left + 8]
        windows[window.tobytes()] = (top, left, False)
        windows[window[:, ::-1].tobytes()] = (top, left, True)
    found = {windows[view.tobytes()] for view in shown}
    assert len({place[:2] for place in found}) > 10
    assert {place[2] for place in found} == {True, False}


def test_reflected_padding_mirrors_at_the_edge() -> None:
    views = memory(Cropping(crop="padded", padding=2, padding_mode="reflect")).views
    padded = np.pad(views.pixels[0], ((2, 2), (2, 2), (0, 0)), mode="reflect")
    known = {padded[t : t + 8, left : left + 8].tobytes() for t, left in itertools.product(range(5), range(5))}
    shown, _ = views(np.arange(30), np.zeros(30, dtype=np.int64))
    assert {view.tobytes() for view in shown} <= known


def test_colors_are_normalized() -> None:
    pixels = np.array([[[[0, 128, 255]]]], dtype=np.uint8)
    expected = (pixels.astype(np.float64) / 255 - NORMALIZATION.mean) / NORMALIZATION.std
    assert np.allclose(NORMALIZATION.normalized(pixels), expected, atol=1e-6)


def test_mixup_is_the_weighted_mean_of_two_examples() -> None:
    mixed, plain = memory(Cropping(), mixing=Mixing(mixup=1.0)), memory(Cropping())
    epochs, examples = np.zeros(12, dtype=np.int64), np.arange(12)
    batch = mixed.batch(epochs, examples).inputs
    images = plain.batch(epochs, examples).inputs["images"]
    shares = batch["shares"]
    assert shares.min() > 0
    assert shares.max() < 1
    for place in range(12):
        partners = [other for other in range(12) if LABELS[other] == batch["partner_labels"][place]]
        errors = [
            (shares[place] * images[place] + (1 - shares[place]) * images[other] - batch["images"][place]).abs().max()
            for other in partners
        ]
        assert min(errors) < 1e-5


def test_cutmix_shares_are_areas() -> None:
    pixels = np.zeros((12, 8, 8, 3), dtype=np.uint8) + (np.arange(12, dtype=np.uint8) * 20)[:, None, None, None]
    source = ImageSource(
        MemoryViews(pixels, Cropping(), NORMALIZATION.mean, 7),
        np.arange(12),
        NORMALIZATION,
        7,
        mixing=Mixing(cutmix=1.0),
    )
    epochs, examples = np.arange(40) // 12, np.arange(40) % 12
    batch = source.batch(epochs, examples).inputs
    plain = ImageSource(source.views, np.arange(12), NORMALIZATION, 7).batch(epochs, examples).inputs["images"]
    own = (batch["images"] == plain).all(1).float().mean((1, 2))
    other = batch["partner_labels"] != batch["labels"]
    assert torch.allclose(own[other], batch["shares"][other])
    assert 0.2 < batch["shares"].mean() < 0.8


def test_a_damaged_image_is_no_target_and_is_named_once() -> None:
    named = []
    views = FileViews(
        twelve_images(), 8, 3, Cropping(crop="resized"), 7, lambda *line: named.append(line), training=True
    )
    source = ImageSource(views, LABELS, NORMALIZATION, 7, top5=True)
    for _ in range(2):
        batch = source.batch(np.zeros(12, dtype=np.int64), np.arange(12))
    assert batch.num_targets == {"label": 11, "label_top5": 11}
    assert batch.inputs["labels"].tolist() == [NO_LABEL if n == 5 else LABELS[n] for n in range(12)]
    assert batch.inputs["images"][5].abs().max() == 0
    assert [name for name, _ in named] == ["image 5"]
    assert "truncated" in named[0][1].lower()


def test_evaluation_sees_the_middle_and_is_the_same_in_every_epoch() -> None:
    source = files(training=False)
    first, second = (source.batch(np.full(12, epoch), np.arange(12)).inputs["images"] for epoch in (0, 3))
    assert torch.equal(first, second)


def test_decoding_everything_leaves_out_what_cannot_be_read() -> None:
    named = []
    pixels, numbers = decode_all(twelve_images(), 8, 3, 0, lambda *line: named.append(line), 1 << 20)
    assert pixels.shape == (11, 8, 8, 3)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert len(named) == 1
    with pytest.raises(InputError, match=r"0\.0 GB decoded.*resized"):
        decode_all(twelve_images(), 8, 3, 0, ignore, 100)


def test_late_batches_hold_every_example_once() -> None:
    source = files(training=False)
    batches = late_batches(source, 5)
    assert [batch.num_examples for batch in batches] == [5, 5, 2]
    assert sum(batch.num_targets["label"] for batch in batches) == 11
    whole = source.batch(np.zeros(12, dtype=np.int64), np.arange(12)).inputs["images"]
    assert torch.equal(torch.cat([batch.inputs["images"] for batch in batches]), whole)


def test_folds_part_a_set_evenly_by_class() -> None:
    labels = digits().labels
    parts = [folded(labels, fold, 5) for fold in range(5)]
    held = np.concatenate([part for _, part in parts])
    assert np.array_equal(np.sort(held), np.arange(1797))
    for training, part in parts:
        assert not set(training) & set(part)
        counts = np.bincount(labels[part])
        assert counts.min() >= 34
        assert counts.max() <= 37
    for fold, folds, message in ((5, 5, "below data.folds = 5"), (0, 2000, "fewer folds")):
        with pytest.raises(InputError, match=message):
            folded(labels, fold, folds)


def test_digits_are_digits() -> None:
    images = digits()
    assert images.image(1796).size == (8, 8)
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first is the zero that scikit-learn's documentation shows.
    assert (np.asarray(images.image(0))[0] // 15).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
