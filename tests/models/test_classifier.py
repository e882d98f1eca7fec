"""The networks are the ones that their papers describe, and a loss is a sum over the images that have a label."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anybatch.data.images.source import ImageSource, Normalization
from anybatch.errors import InputError
from anybatch.models.classifier import ClassifierSettings, ImageClassifier, classifier_flops, image_classifier
from anybatch.optim import LAMB, param_groups

LENET = ClassifierSettings("lenet", 1, 8, 7, label_smoothing=0.1)
RESNET20 = ClassifierSettings("resnet20", 3, 32, 10, zero_init_residual=True)
DAVIDNET = ClassifierSettings("davidnet", 3, 32, 10)
RESNET50 = ClassifierSettings("resnet50", 3, 224, 1000, zero_init_residual=True)


def images(settings: ClassifierSettings, count: int = 3) -> torch.Tensor:
    shape = count, settings.channels, settings.image_size, settings.image_size
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return made.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("settings", "parameters", "multiplications"),
    [
        # He et al. 2016: 0.27M parameters; 41M multiplications.
        (RESNET20, 269_722, 40.55e6),
        # Page: 6,573,120 with the scales and shifts of BatchNorm.
        (DAVIDNET, 6_573_120, 379.6e6),
        # The number of every ResNet-50; 4.1G multiplications are those of v1.5, v1 has 3.8G.
        (RESNET50, 25_557_032, 4.09e9),
    ],
)
def test_networks_have_the_size_of_their_papers(
    settings: ClassifierSettings, parameters: int, multiplications: float
) -> None:
    model = image_classifier(settings, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert classifier_flops(settings) == pytest.approx(6 * multiplications, rel=0.005)


@pytest.mark.parametrize("settings", [RESNET20, DAVIDNET], ids=lambda settings: settings.architecture)
def test_a_narrow_network_has_as_many_layers_of_fewer_channels(settings: ClassifierSettings) -> None:
    whole, narrow = (image_classifier(each, seed=0) for each in (settings, replace(settings, width=4)))
    factor = {"resnet20": 4, "davidnet": 16}[settings.architecture]
    shapes = [(p.shape, q.shape) for p, q in zip(whole.parameters(), narrow.parameters(), strict=True)]
    fixed = {settings.channels, settings.num_classes}
    assert all([n if n in fixed else n // factor for n in wide[:2]] == list(thin[:2]) for wide, thin in shapes)
    assert all(wide[2:] == thin[2:] for wide, thin in shapes)
    assert narrow.logits(images(settings)).shape == (3, 10)


@pytest.mark.parametrize("settings", [LENET, RESNET20, DAVIDNET], ids=lambda settings: settings.architecture)
def test_the_seed_decides_the_weights_and_nothing_else(settings: ClassifierSettings) -> None:
    first = image_classifier(settings, seed=5)
    torch.rand(3)
    second, third = image_classifier(settings, seed=5), image_classifier(settings, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def test_blocks_of_zero_scale_start_as_their_shortcuts() -> None:
    net = image_classifier(RESNET20, seed=0).net
    hidden = torch.relu(torch.randn(2, 16, 8, 8))
    assert torch.equal(net.blocks[0](hidden), hidden)
    shrunk = net.blocks[3](hidden)
    assert torch.equal(shrunk[:, 8:24], hidden[:, :, ::2, ::2])
    assert shrunk[:, :8].abs().max() == shrunk[:, 24:].abs().max() == 0
    plain = image_classifier(ClassifierSettings("resnet20", 3, 32, 10), seed=0).net
    assert not torch.equal(plain.blocks[0](hidden), hidden)


def test_resnet50_is_version_one_and_a_half_with_zero_scales() -> None:
    with torch.device("meta"):
        net = image_classifier(RESNET50, seed=0).net
    strides = {name: tuple(m.stride) for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {strides[f"resnet.encoder.stages.{stage}.layers.0.layer.0.convolution"] for stage in range(4)} == {(1, 1)}
    assert [strides[f"resnet.encoder.stages.{stage}.layers.0.layer.1.convolution"][0] for stage in range(4)] == [
        1,
        2,
        2,
        2,
    ]
    small = ClassifierSettings("resnet50", 3, 32, 2, zero_init_residual=True)
    last = [
        p for name, p in image_classifier(small, 0).named_parameters() if name.endswith("layer.2.normalization.weight")
    ]
    assert len(last) == 16
    assert all((p == 0).all() for p in last)


def test_the_loss_is_the_smoothed_cross_entropy_of_what_has_a_label() -> None:
    model = image_classifier(LENET, seed=0)
    labels = torch.tensor([4, -100, 0])
    scores = model.logits(images(LENET)).detach().double().numpy()
    log = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    smooth = {place: 0.9 * -log[place, label] + 0.1 * -log[place].mean() for place, label in ((0, 4), (2, 0))}
    losses, right = model(images(LENET), labels)
    assert not right
    assert losses["label"].item() == pytest.approx(sum(smooth.values()), rel=1e-5)
    model.eval()
    losses, right = model(images(LENET), labels)
    assert losses["label"].item() == pytest.approx(-log[0, 4] - log[2, 0], rel=1e-5)
    ranks = [(scores[place] > scores[place, label]).sum() for place, label in ((0, 4), (2, 0))]
    assert right["label"].item() == sum(rank == 0 for rank in ranks)
    assert right["label_top5"].item() == sum(rank < 5 for rank in ranks)


def test_a_mixed_label_is_the_weighted_mean_of_two() -> None:
    model = image_classifier(LENET, seed=0)
    labels, partners = torch.tensor([1, 2, -100]), torch.tensor([3, 2, -100])
    shares = torch.tensor([0.25, 0.5, 1.0])
    both = [model(images(LENET)[:2][[n]], which[[n]])[0]["label"] for n in range(2) for which in (labels, partners)]
    expected = 0.25 * both[0] + 0.75 * both[1] + 0.5 * both[2] + 0.5 * both[3]
    found = model(images(LENET), labels, partners, shares)[0]["label"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings", [LENET, RESNET20, ClassifierSettings("resnet50", 3, 32, 3)], ids=lambda settings: settings.architecture
)
def test_a_saved_model_is_the_same_model(settings: ClassifierSettings, tmp_path: Path) -> None:
    model = image_classifier(settings, seed=1)
    model.train()
    model.logits(images(settings))  # moves the running statistics
    model.save(tmp_path)
    loaded = ImageClassifier.load(tmp_path)
    assert loaded.settings == settings
    model.eval()
    loaded.eval()
    assert torch.equal(loaded.logits(images(settings)), model.logits(images(settings)))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="no readable image model"):
        ImageClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ClassifierSettings("lenet", 1, 10, 2), "image_size = 10: LeNet"),
        (ClassifierSettings("davidnet", 3, 16, 2), "image_size = 16: DavidNet"),
        (ClassifierSettings("lenet", 1, 8, 2, width=8), "width = 8: lenet has a width of its own"),
    ],
)
def test_what_does_not_fit_is_refused(settings: ClassifierSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_classifier(settings, seed=0)


@pytest.mark.slow
def test_a_step_of_resnet50_at_224_pixels_lowers_its_loss() -> None:
    model = image_classifier(ClassifierSettings("resnet50", 3, 224, 10, zero_init_residual=True), seed=0)
    optimizer = LAMB(param_groups(model), lr=0.02)
    batch = images(RESNET50, 4)
    labels = torch.arange(4)
    losses = []
    for _ in range(3):
        loss = model(batch, labels)[0]["label"] / 4
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0] - 0.1


NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Drawn:
    """Random pixels; the second image cannot be read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, epochs: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.random.default_rng(0).integers(0, 256, (len(examples), self.size, self.size, 3), dtype=np.uint8)
        return pixels, examples != 1


def batches(size: int, count: int) -> list:
    """The same examples, normalized and raw."""
    labels, numbers = np.arange(count) % 5, np.arange(count)
    return [
        ImageSource(Drawn(size), labels, NORMALIZATION, 0, raw=raw).batch(np.zeros_like(numbers), numbers)
        for raw in (False, True)
    ]


def test_the_model_sees_the_same_bits() -> None:
    plain, raw = batches(32, 6)
    assert raw.inputs["images"].dtype == torch.uint8
    assert raw.num_targets == plain.num_targets
    model = image_classifier(ClassifierSettings("resnet20", 3, 32, 5), seed=1)
    seen: list[torch.Tensor] = []
    model.net.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    losses = [model(**batch.inputs)[0]["label"] for batch in (plain, raw)]
    assert torch.equal(*seen)
    assert seen[0].stride() == seen[1].stride(), "channels last, both"
    assert torch.equal(*losses)


def test_eight_ranks_hold_a_batch_of_32k() -> None:
    """Three shares live at once: one is computed with, one is ready, one is read; pinned blocks are powers of two."""
    group = batches(224, 64)[1]
    held = sum(1 << (value.nbytes - 1).bit_length() for value in group.inputs.values())
    assert 3 * (32_768 // 8 // 64) * held < 8e9
