"""Residual blocks of feature maps, which can be conditioned on an embedding such as that of the time.

    h = conv(silu(norm(x))),    out = skip(x) + conv(dropout(silu(n(h, emb))))

where n(h, emb) is norm(h + W emb) for additive embeddings, and norm(h) (1 + scale) + shift with [scale, shift] = W emb
for embeddings that scale and shift (FiLM, arXiv:1709.07871).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from diffsweep.layers.norms import group_norm, zero_init

TimeEmbedding = Literal["additive", "scale_shift"]
Norm = Callable[[int], nn.Module]
Resample = Callable[[Tensor, Size | None], Tensor]

TIME_EMBEDDINGS: dict[TimeEmbedding, int] = {"additive": 1, "scale_shift": 2}  # values per channel


def residual_sum(x: Tensor, h: Tensor, scale: float) -> Tensor:
    """Return (x + h) scale; a scale of 1 costs no multiplication."""
    return x + h if scale == 1 else (x + h) * scale


def embedded_norm(norm: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    """Return the norm of h, conditioned on an embedding.

    Args:
        norm: the norm for C channels.
        h: feature maps, (B, C, H, W).
        emb: an embedding (B, C), for norm(h + emb); or scale and shift (B, 2 C), for norm(h) (1 + scale) + shift
            (arXiv:1709.07871).
    """
    emb = emb[:, :, None, None]
    if emb.shape[1] == h.shape[1]:
        return norm(h + emb)
    scale, shift = emb.chunk(2, dim=1)
    return torch.addcmul(shift, norm(h), 1 + scale)


def shortcut(in_channels: int, out_channels: int) -> nn.Module:
    """Return the skip connection of a residual block: a 1 x 1 convolution if the channels differ, else the identity."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)


class ResidualBlock(nn.Module):
    """A residual block: norm, SiLU, conv; the time embedding; norm, SiLU, dropout, conv; plus the input.

    It is the block of DDPM (arXiv:2006.11239), from (B, C, H, W) to (B, C', H, W). With ``resample`` it is the block of
    BigGAN (arXiv:1809.11096, figure 15), which resamples both branches. ``forward`` takes the maps, the embedding
    (B, E) and the ``size`` (height, width) for ``resample``.

    Args:
        in_channels: C.
        out_channels: C'.
        embedding: size E of the time embedding, to which a condition may have been added; None: the block reads none.
        dropout: dropout rate before the second convolution.
        time_embedding: ``additive``: added before the second norm; ``scale_shift``: scales and shifts that norm's
            output.
        resample: changes the size of the maps, such as ``pool`` or ``enlarge``; None: the size stays.
        norm: makes a norm for a number of channels.
        residual_scale: factor of the sum of both branches.
        zero: initialise the last convolution to zero, so that the block starts as its skip connection.
        project: the skip connection is a 1 x 1 convolution even if C = C'.
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
        project: bool = False,
    ) -> None:
        super().__init__()
        self.resample, self.residual_scale = resample, residual_scale
        self.norm_in = norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        values = TIME_EMBEDDINGS[time_embedding] * out_channels
        self.embed = None if embedding is None else nn.Linear(embedding, values)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out = zero_init(conv_out) if zero else conv_out
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if project else shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Size | None = None) -> Tensor:
        h = functional.silu(self.norm_in(x))  # (B, C, H, W)
        if self.resample is not None:
            h, x = self.resample(h, size), self.resample(x, size)  # (B, C, H', W')
        h = self.conv_in(h)  # (B, C', H', W')
        h = self.norm_out(h) if self.embed is None else embedded_norm(self.norm_out, h, self.embed(emb))
        h = self.conv_out(self.dropout(functional.silu(h)))
        return residual_sum(self.skip(x), h, self.residual_scale)
