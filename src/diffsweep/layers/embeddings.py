"""Embeddings of times."""

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    r""":math:`[\cos(\omega_i c), \sin(\omega_i c)]`, :math:`\omega_i = 10000^{-i / (D/2)}` (arXiv:1706.03762; the order of guided-diffusion).

    Args:
        dim: D, even.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"a sinusoidal embedding needs an even size, not {dim}")
        frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise.float()[:, None] * self.frequencies  # (B, D / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1).to(c_noise.dtype)  # (B, D)
