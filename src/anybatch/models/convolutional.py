"""Small convolutional networks: LeNet, ResNet-20 and DavidNet, as float[B, C, S, S] -> logits float[B, classes]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """LeNet-5: two convolutions with max-pooling, three linear layers, ReLU; for images of any size divisible by 4.

    The convolutions are padded, so that 8 x 8 pixels are enough; 28 x 28 go to 7 x 7.

    Source: LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, with today's ReLU and
    max-pooling. The LAMB paper says only 'LeNet'.
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        if size < 4 or size % 4:
            raise ValueError(f"image_size = {size}: LeNet halves it twice, so it must be divisible by 4")
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
        self.linear1 = nn.Linear(16 * (size // 4) ** 2, 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv1(images)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2)
        hidden = F.relu(self.linear1(hidden.flatten(1)))
        return self.linear3(F.relu(self.linear2(hidden)))  # type: ignore[no-any-return]


class ResNet20(nn.Module):
    """ResNet-20 for images of about 32 x 32: three stages of three blocks; 0.27M parameters.

    `width`: channels of the first stage, 16 in the source; the next two have twice and four times as many.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2: shortcuts without parameters (option A).
    """

    def __init__(self, channels: int, num_classes: int, zero_init: bool, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        outs = [width] * 3 + [2 * width] * 3 + [4 * width] * 3
        self.blocks = nn.ModuleList(BasicBlock(*shape) for shape in zip([width, *outs], outs, strict=False))
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init and isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv(images)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.linear(hidden.mean((2, 3)))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which drops every second pixel and adds channels of zeros."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.stride = 1 if into == out else 2
        self.conv1 = nn.Conv2d(into, out, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, hidden: Tensor) -> Tensor:
        shortcut = hidden
        if self.stride == 2:
            more = self.conv1.out_channels - hidden.shape[1]
            shortcut = F.pad(hidden[:, :, ::2, ::2], (0, 0, 0, 0, more // 2, more - more // 2))
        hidden = F.relu(self.norm1(self.conv1(hidden)))
        return F.relu(self.norm2(self.conv2(hidden)) + shortcut)


class DavidNet(nn.Module):
    """ResNet-9 as in D. Page's DAWNBench entry: 64 to 512 channels, residual blocks after the first and last pooling.

    Logits are 0.125 times the last layer's. 6.6M parameters. `width`: channels of the first layer, 64 in the source;
    the next three have twice, four and eight times as many.

    Source: D. Page 2018, How to Train Your ResNet (github davidcpage/cifar10-fast); the LAMB paper names it DavidNet.
    """

    SCALE = 0.125

    def __init__(self, channels: int, size: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        if size < 32:
            raise ValueError(f"image_size = {size}: DavidNet pools it by 32, so it must be at least 32")
        self.prepare = _convolution(channels, width)
        self.layer1 = _convolution(width, 2 * width)
        self.residual1 = _residual(2 * width)
        self.layer2 = _convolution(2 * width, 4 * width)
        self.layer3 = _convolution(4 * width, 8 * width)
        self.residual3 = _residual(8 * width)
        self.linear = nn.Linear(8 * width, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.layer1(self.prepare(images)), 2)
        hidden = hidden + self.residual1(hidden)
        hidden = F.max_pool2d(self.layer2(hidden), 2)
        hidden = F.max_pool2d(self.layer3(hidden), 2)
        hidden = hidden + self.residual3(hidden)
        return self.SCALE * self.linear(torch.amax(hidden, (2, 3)))  # type: ignore[no-any-return]


def _convolution(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _residual(width: int) -> nn.Sequential:
    return nn.Sequential(_convolution(width, width), _convolution(width, width))
