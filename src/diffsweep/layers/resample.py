"""Layers that halve or double the size of feature maps.

Halving maps a side of n pixels to ceil(n / 2). Doubling maps it to 2 n, or to a given ``size``, so that a U-Net can
return to odd sides. The layers take the arguments of resampling residual blocks, (x, emb, size), and ignore ``emb``.
"""

from torch import Size, Tensor, nn
from torch.nn import functional


def pool(x: Tensor, size: Size | None = None) -> Tensor:
    """Return the means of 2 x 2 pixels, (B, C, ceil(H / 2), ceil(W / 2)), of maps x (B, C, H, W).

    The last row and column of an odd side are averaged over the pixels that exist. ``size`` is not used: this function
    is called as :func:`enlarge` is.
    """
    return functional.avg_pool2d(x, 2, ceil_mode=True)


def enlarge(x: Tensor, size: Size | None = None) -> Tensor:
    """Return maps x (B, C, H, W) enlarged by nearest neighbours to (B, C, *size), by default (B, C, 2 H, 2 W)."""
    return functional.interpolate(x, size=size, scale_factor=2.0 if size is None else None, mode="nearest")


class Downsample(nn.Conv2d):
    """A 3 x 3 convolution of stride 2, from (B, C, H, W) to (B, C', ceil(H / 2), ceil(W / 2)).

    Args:
        in_channels: C.
        out_channels: C'.
        pad_end: pad with zeros after the last row and column only, as the autoencoders of latent diffusion do
            (arXiv:2112.10752); H and W must be even. Otherwise all four edges are padded.
    """

    def __init__(self, in_channels: int, out_channels: int, pad_end: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=0 if pad_end else 1)
        self.pad_end = pad_end

    def forward(self, input: Tensor, emb: Tensor | None = None) -> Tensor:
        return super().forward(functional.pad(input, (0, 1, 0, 1)) if self.pad_end else input)


class Upsample(nn.Conv2d):
    """An enlargement of maps (B, C, H, W) by nearest neighbours, then a 3 x 3 convolution to C' channels.

    The result is (B, C', *size) for the argument ``size`` of ``forward``, by default (B, C', 2 H, 2 W).

    Args:
        in_channels: C.
        out_channels: C'.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor, emb: Tensor | None = None, size: Size | None = None) -> Tensor:
        return super().forward(enlarge(input, size))
