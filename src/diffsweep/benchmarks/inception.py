"""A network with the layers of Inception-v3 (arXiv:1512.00567) and random weights, at the cost of the public one.

It stands in for the public weights where these are absent: what an image costs depends on the shapes alone, 5.7 billion
multiplications at 299x299 pixels. Features mean nothing with random weights, so only times are measured with it.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.metrics.resizing import legacy

Size = int | tuple[int, int]


class Convolution(nn.Sequential):
    """A convolution without bias, a normalisation by batch statistics and a rectifier, as all of Inception's are.

    Args:
        wide: input channels.
        channels: output channels.
        size: of the kernel, one number or height and width.
        stride: of the convolution.
        same: whether the image keeps its size at stride 1, by zeros around it.
    """

    def __init__(self, wide: int, channels: int, size: Size, stride: int = 1, same: bool = True) -> None:
        kernel = (size, size) if isinstance(size, int) else size
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        convolution = nn.Conv2d(wide, channels, kernel, stride, padding, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(channels, eps=1e-3), nn.ReLU(inplace=True))


class Branches(nn.Module):
    """A block whose branches each get the input; their outputs are joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def chain(wide: int, *steps: tuple[int, Size], stride: int = 1) -> nn.Sequential:
    """Return convolutions (channels, size) one after the other, of which the last one has a stride, without padding."""
    layers: list[nn.Module] = []
    for number, (channels, size) in enumerate(steps):
        last = number == len(steps) - 1 and stride > 1
        layers.append(Convolution(wide, channels, size, stride if last else 1, same=not last))
        wide = channels
    return nn.Sequential(*layers)


def pooled(wide: int, channels: int) -> nn.Sequential:
    """Return a mean over 3x3 pixels, without the zeros around the image, and a convolution of single pixels."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), Convolution(wide, channels, 1))


def _a(wide: int, last: int) -> Branches:
    branches: Sequence[nn.Module] = (
        chain(wide, (64, 1)),
        chain(wide, (48, 1), (64, 5)),
        chain(wide, (64, 1), (96, 3), (96, 3)),
        pooled(wide, last),
    )
    return Branches(*branches)


def _b(wide: int) -> Branches:
    return Branches(
        chain(wide, (384, 3), stride=2), chain(wide, (64, 1), (96, 3), (96, 3), stride=2), nn.MaxPool2d(3, 2)
    )


def _c(wide: int, inner: int) -> Branches:
    row, column = (1, 7), (7, 1)
    twice = [(inner, column), (inner, row), (inner, column), (192, row)]
    return Branches(
        chain(wide, (192, 1)),
        chain(wide, (inner, 1), (inner, row), (192, column)),
        chain(wide, (inner, 1), *twice),
        pooled(wide, 192),
    )


def _d(wide: int) -> Branches:
    return Branches(
        chain(wide, (192, 1), (320, 3), stride=2),
        chain(wide, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2),
        nn.MaxPool2d(3, 2),
    )


def _e(wide: int) -> Branches:
    def cross() -> Branches:
        return Branches(Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1)))

    return Branches(
        chain(wide, (320, 1)),
        nn.Sequential(chain(wide, (384, 1)), cross()),
        nn.Sequential(chain(wide, (448, 1), (384, 3)), cross()),
        pooled(wide, 192),
    )


class RandomInception(nn.Module):
    """Inception-v3 with random weights, called as the network of :class:`~diffsweep.metrics.inception.Inception`.

    Its parts are ``layers``, whose children have the names of the public file's blocks, and ``output``, with 1,008
    classes.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[tuple[str, nn.Module]] = [
            ("conv", Convolution(3, 32, 3, 2, same=False)),
            ("conv_1", Convolution(32, 32, 3, same=False)),
            ("conv_2", Convolution(32, 64, 3)),
            ("pool0", nn.MaxPool2d(3, 2)),
            ("conv_3", Convolution(64, 80, 1)),
            ("conv_4", Convolution(80, 192, 3, same=False)),
            ("pool1", nn.MaxPool2d(3, 2)),
            *((f"mixed{tail}", block) for tail, block in (("", _a(192, 32)), ("_1", _a(256, 64)), ("_2", _a(288, 64)))),
            ("mixed_3", _b(288)),
            *((f"mixed_{4 + number}", _c(768, inner)) for number, inner in enumerate((128, 160, 160, 192))),
            ("mixed_8", _d(768)),
            ("mixed_9", _e(1280)),
            ("mixed_10", _e(2048)),
            ("pool2", nn.AvgPool2d(8)),
        ]
        self.layers = nn.Sequential(OrderedDict(blocks))
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        """Return the features (N, 2048) of images (N, 3, H, W) in [0, 255], or else the class probabilities (N, 1008).

        Args:
            x: the images, which are resized as the original evaluators do.
            return_features: whether the features are returned.
            no_output_bias: whether the probabilities are without the bias of ``output``.
        """
        features: Tensor = self.layers((legacy(x, 299) - 128) / 128).flatten(1)
        if return_features:
            return features
        bias = torch.zeros_like(self.output.bias) if no_output_bias else self.output.bias
        return functional.linear(features, self.output.weight, bias).softmax(1)
