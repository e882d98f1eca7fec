"""Images that the device normalises are those that the host does, bit for bit, in a quarter of the memory."""

import numpy as np
import torch

from anybatch.data.images.source import ImageSource, Normalization
from anybatch.models import ClassifierSettings, image_classifier

NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Drawn:
    """Random pixels; the second image cannot be read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, epochs: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.random.default_rng(0).integers(0, 256, (len(examples), self.size, self.size, 3), dtype=np.uint8)
        return pixels, examples != 1


def batches(size: int, count: int) -> list:
    """The same examples, normalised and raw."""
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
