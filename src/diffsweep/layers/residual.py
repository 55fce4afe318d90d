"""Residual blocks of feature maps, which may be told an embedding, that of the time."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from diffsweep.layers.norms import group_norm, zero_init

TimeEmbedding = Literal["additive", "scale_shift"]
Norm = Callable[[int], nn.Module]
Resample = Callable[[Tensor, Size | None], Tensor]

TIME_EMBEDDINGS: dict[TimeEmbedding, int] = {"additive": 1, "scale_shift": 2}  # numbers that each channel is told


def residual_sum(x: Tensor, h: Tensor, scale: float) -> Tensor:
    """(x + h) scale, without a pass over it where the scale is 1."""
    return x + h if scale == 1 else (x + h) * scale


def embedded_norm(norm: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    """norm(h + emb) for an embedding (B, C); norm(h) (1 + scale) + shift for one that is both, (B, 2 C) (arXiv:1709.07871)."""
    emb = emb[:, :, None, None]
    if emb.shape[1] == h.shape[1]:
        return norm(h + emb)
    scale, shift = emb.chunk(2, dim=1)
    return torch.addcmul(shift, norm(h), 1 + scale)


def shortcut(in_channels: int, out_channels: int) -> nn.Module:
    """Return what carries the input of a residual block to its output: a 1 x 1 convolution where channels differ."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; the time's embedding; norm, SiLU, dropout, conv (zero at first); plus the input.

    The block of DDPM; with ``resample`` that of BigGAN (arXiv:1809.11096, figure 15), which resamples both branches.

    Args:
        in_channels: C.
        out_channels: C'.
        embedding: size of the time's embedding; None: nothing is told.
        dropout: dropout rate before the second convolution.
        time_embedding: ``additive``: added before the second norm; ``scale_shift``: scales and shifts what leaves that norm.
        resample: what changes the size of maps; None keeps it.
        norm: makes the norms.
        residual_scale: what the sum of both branches is multiplied by.
        zero: whether the last convolution is zero at first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int | None,
        dropout: float = 0.0,
        time_embedding: TimeEmbedding = "additive",
        resample: Resample | None = None,
        norm: Norm = group_norm,
        residual_scale: float = 1.0,
        zero: bool = True,
    ) -> None:
        super().__init__()
        self.resample, self.residual_scale = resample, residual_scale
        self.norm_in = norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        told = TIME_EMBEDDINGS[time_embedding] * out_channels
        self.embed = None if embedding is None else nn.Linear(embedding, told)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out = zero_init(conv_out) if zero else conv_out
        self.skip = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Size | None = None) -> Tensor:
        h = functional.silu(self.norm_in(x))  # (B, C, H, W)
        if self.resample is not None:
            h, x = self.resample(h, size), self.resample(x, size)  # (B, C, H', W')
        h = self.conv_in(h)  # (B, C', H', W')
        h = self.norm_out(h) if self.embed is None else embedded_norm(self.norm_out, h, self.embed(emb))
        h = self.conv_out(self.dropout(functional.silu(h)))
        return residual_sum(self.skip(x), h, self.residual_scale)
