r"""Sinusoidal embeddings of times and other numbers.

.. math:: e(c) = [\cos(\omega_0 c), \dots, \cos(\omega_{D/2-1} c), \sin(\omega_0 c), \dots, \sin(\omega_{D/2-1} c)],
   \qquad \omega_i = 10000^{-i / (D/2)}

A network reads the number c, usually the ``c_noise`` of a time, from D values in [-1, 1]. The high frequencies
distinguish neighbouring values of c, the low ones distant values.
"""

import math

import torch
from torch import Tensor, nn

from diffsweep.layers.constants import made_once


@made_once(16)  # saves 10 us on a CPU, 0.5 % of a small network, and six launches on a GPU
def _frequencies(count: int, device: torch.device, dtype: torch.dtype, last: int = 0) -> Tensor:
    exact = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
    omega = torch.exp(-math.log(10000) * torch.arange(count, dtype=torch.float64, device=exact) / (count - last))
    return omega.to(device, dtype)


class SinusoidalEmbedding(nn.Module):
    r"""The sinusoidal embedding :math:`[\cos(\omega_i c), \sin(\omega_i c)]` of numbers c (arXiv:1706.03762).

    The D / 2 frequencies are :math:`\omega_i = 10000^{-i / (D/2)}`; all cosines come first, as in guided-diffusion.
    Numbers (B,) become embeddings (B, D) of the same dtype.

    The frequencies are not a buffer of the module, since casting a network to bfloat16 would round them.

    Args:
        dim: D, even.
        endpoint: the exponents are -i / (D/2 - 1), so that the last frequency is 1 / 10000, as in DDPM and score SDE.

    Raises:
        ValueError: D is odd, or below 4 with ``endpoint``.
    """

    def __init__(self, dim: int, endpoint: bool = False) -> None:
        super().__init__()
        if dim % 2 or (endpoint and dim < 4):
            raise ValueError(f"a sinusoidal embedding needs an even size, at least 4 with an endpoint, not {dim}")
        self.count, self.last = dim // 2, int(endpoint)

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * _frequencies(self.count, c_noise.device, c_noise.dtype, self.last)  # (B, D / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, D)
