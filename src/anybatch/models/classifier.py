"""A network that classifies images, with its loss and its counts of right answers."""

import json
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval, Lt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anybatch.errors import readable
from anybatch.models.bert import Sums
from anybatch.models.building import quiet_transformers, seeded
from anybatch.models.convolutional import DavidNet, LeNet, ResNet20

Architecture = Literal["lenet", "resnet20", "davidnet", "resnet50"]


@dataclass(frozen=True)
class NetworkSettings:
    """Which network."""

    architecture: Architecture
    """The network."""
    _: KW_ONLY
    batch_norm_group: Annotated[int, Interval(ge=2, le=2**24)] | None = None
    """The most examples that BatchNorm normalizes together; null if, and only if, the network has no BatchNorm."""
    width: Annotated[int, Interval(ge=1, le=4096)] | None = None
    """Channels of the first layer of resnet20 or davidnet, all others in proportion; null: the source's, 16 or 64."""
    zero_init_residual: bool = False
    """Start the last BatchNorm of every residual block of a ResNet at scale 0 (Goyal et al. 2017, section 5.1)."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of every target that is spread over all classes, in training."""


@dataclass(frozen=True)
class ClassifierSettings(NetworkSettings):
    """A network for images of `channels` x `image_size` x `image_size`."""

    channels: int
    image_size: int
    num_classes: int


class ImageClassifier(nn.Module):
    """A network `net` from images to logits float[B, classes]; weights are contiguous, activations channels last."""

    def __init__(self, net: nn.Module, settings: ClassifierSettings) -> None:
        super().__init__()
        self.net: Any = net
        self.settings = settings

    def logits(self, images: Tensor) -> Tensor:
        """Returns logits float[B, classes] of images float[B, C, S, S]."""
        found = self.net(images)
        return found if isinstance(found, Tensor) else found.logits

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        partner_labels: Tensor | None = None,
        shares: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Sums, Sums]:
        """Returns sums, not means, so that the caller can divide by the count of the whole global batch.

        Args:
            images: float[B, C, S, S]; or uint8, which `normalized` makes floats of with scale, shift and seen.
            labels: int64[B]; -100 is no target.
            partner_labels, shares: for mixed images: the other label, int64[B], and the remaining share of the image's
                own label.

        Returns:
            ({"label": loss sum}, {"label": right answers, "label_top5": labels among the five likeliest}); in
            training, the loss is smoothed and the second is empty.
        """
        if scale is not None and shift is not None and seen is not None:
            images = normalized(images, scale, shift, seen)
        logits = self.logits(images).float()
        if self.training:
            return {"label": self._smoothed(logits, labels, partner_labels, shares)}, {}
        likeliest = logits.topk(min(5, logits.shape[-1])).indices
        hit = likeliest == labels[:, None]
        return (
            {"label": cross_entropy(logits, labels, reduction="sum")},
            {"label": hit[:, 0].sum(), "label_top5": hit.sum()},
        )

    def _smoothed(self, logits: Tensor, labels: Tensor, partners: Tensor | None, shares: Tensor | None) -> Tensor:
        smoothing = self.settings.label_smoothing
        if partners is None or shares is None:
            return cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        own, other = (
            cross_entropy(logits, target, reduction="none", label_smoothing=smoothing) for target in (labels, partners)
        )
        return (shares * own + (1 - shares) * other).sum()

    def save(self, folder: Path) -> None:
        """Writes weights and classifier.json; for a network from transformers also transformers' files."""
        if hasattr(self.net, "save_pretrained"):
            self.net.save_pretrained(folder)
        else:
            save_file({name: value.contiguous() for name, value in self.net.state_dict().items()},
                      folder / "model.safetensors")  # fmt: skip
        (folder / "classifier.json").write_text(json.dumps(asdict(self.settings), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ImageClassifier":
        """Loads the model in a folder that `save` wrote; InputError if it cannot be read."""
        with readable(folder, "image model"):
            values = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
            # How new weights start: no matter here, and of another name before.
            values.pop("zero_init", None)
            model = image_classifier(ClassifierSettings(**values), seed=0)
            model.net.load_state_dict(load_file(folder / "model.safetensors"))
        return model


def normalized(images: Tensor, scale: Tensor, shift: Tensor, seen: Tensor) -> Tensor:
    """Returns uint8[B, C, S, S] * scale - shift, by channel; 0 if an image could not be read (`seen`, bool[B])."""
    found = images.float().mul_(scale[:, None, None]).sub_(shift[:, None, None])
    return found.masked_fill_(~seen[:, None, None, None], 0.0)


def image_classifier(settings: ClassifierSettings, seed: int) -> ImageClassifier:
    """Makes a newly initialized model; the same seed gives the same weights.

    Raises:
        ValueError: the images do not fit the network, or it takes no width.
    """
    with seeded(seed):
        return ImageClassifier(_network(settings), settings)


def has_batch_norm(architecture: Architecture) -> bool:
    """Returns whether the examples of a batch affect each other, so that it matters which ones are together."""
    return architecture != "lenet"


def classifier_flops(settings: ClassifierSettings) -> float:
    """Returns the floating-point operations of a forward and a backward pass on one image.

    A backward pass takes twice a forward pass. torch counts them on tensors without content: convolutions and matrix
    products, two operations for each multiplication.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net = _network(settings).eval()
        images = torch.empty(1, settings.channels, settings.image_size, settings.image_size)
    with FlopCounterMode(display=False) as counter:
        net(images)
    return 3.0 * float(counter.get_total_flops())


def _network(settings: ClassifierSettings) -> nn.Module:
    channels, size, classes = settings.channels, settings.image_size, settings.num_classes
    if settings.architecture == "resnet20":
        return ResNet20(channels, classes, settings.zero_init_residual, settings.width or 16)
    if settings.architecture == "davidnet":
        return DavidNet(channels, size, classes, settings.width or 64)
    if settings.width is not None:
        raise ValueError(f"width = {settings.width}: {settings.architecture} has a width of its own; leave it out")
    if settings.architecture == "lenet":
        return LeNet(channels, size, classes)
    return _resnet50(channels, classes, settings.zero_init_residual)


def _resnet50(channels: int, num_classes: int, zero_init: bool) -> nn.Module:
    """Makes transformers' ResNet-50: v1.5 (a block's stride is in its 3 x 3 convolution), 25.6M parameters."""
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

    quiet_transformers()
    net: nn.Module = ResNetForImageClassification(ResNetConfig(num_channels=channels, num_labels=num_classes))
    if zero_init:
        for module in net.modules():
            if isinstance(module, ResNetBottleNeckLayer):
                nn.init.zeros_(module.layer[-1].normalization.weight)
    return net
