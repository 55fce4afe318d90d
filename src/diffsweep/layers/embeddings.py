"""Embeddings of times and other numbers."""

import functools
import math

import torch
from torch import Tensor, nn


@functools.lru_cache(maxsize=16)  # 10 us of a call on a CPU, half a percent of a small network; six launches on a GPU
def _frequencies(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    place = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    omega = torch.exp(-math.log(10000) * torch.arange(count, dtype=torch.float64, device=place) / count)
    return omega.to(device, dtype)


class SinusoidalEmbedding(nn.Module):
    r""":math:`[\cos(\omega_i c), \sin(\omega_i c)]`, :math:`\omega_i = 10000^{-i / (D/2)}` (arXiv:1706.03762; the order of guided-diffusion).

    The frequencies are no buffer: casting a network to bfloat16 must not round them.

    Args:
        dim: D, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"a sinusoidal embedding needs an even size, not {dim}")
        self.count = dim // 2

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * _frequencies(self.count, c_noise.device, c_noise.dtype)  # (B, D / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, D)
