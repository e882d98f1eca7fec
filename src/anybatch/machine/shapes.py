"""The parameters of known models as data, so that a step can be measured without building the models."""

from collections.abc import Callable

Shape = tuple[int, ...]


def bert(hidden: int, layers: int, vocabulary: int = 30_522, positions: int = 512) -> list[Shape]:
    """BERT with both pretraining heads, the output words tied to the embedding (Devlin et al. 2019)."""
    square, wide, bias = (hidden, hidden), (4 * hidden, hidden), (hidden,)
    embeddings = [(vocabulary, hidden), (positions, hidden), (2, hidden), bias, bias]
    attention = [*[square, bias] * 4, bias, bias]
    feed_forward = [wide, (4 * hidden,), (hidden, 4 * hidden), bias, bias, bias]
    heads = [square, bias, (vocabulary,), square, bias, bias, bias, (2, hidden), (2,)]
    return [*embeddings, *(attention + feed_forward) * layers, *heads]


def resnet50(classes: int = 1000) -> list[Shape]:
    """ResNet-50 for images of any size (He et al. 2016): bottleneck blocks, a normalisation after each convolution."""
    shapes: list[Shape] = _convolution(3, 64, 7)
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += _convolution(channels, width, 1) + _convolution(width, width, 3)
            shapes += _convolution(width, 4 * width, 1)
            if block == 0:
                shapes += _convolution(channels, 4 * width, 1)
            channels = 4 * width
    return [*shapes, (classes, channels), (classes,)]


def _convolution(inputs: int, outputs: int, size: int) -> list[Shape]:
    return [(outputs, inputs, size, size), (outputs,), (outputs,)]


def many_small() -> list[Shape]:
    """10,000 tensors of 1,000 elements: what is left when memory hardly matters."""
    return [(1_000,)] * 10_000


SETS: dict[str, Callable[[], list[Shape]]] = {
    "bert-large": lambda: bert(1_024, 24),
    "bert-base": lambda: bert(768, 12),
    "resnet-50": resnet50,
    "many-small": many_small,
}
