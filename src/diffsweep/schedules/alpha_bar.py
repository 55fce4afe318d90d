r"""Discrete schedules given by a function :math:`\bar\alpha(u)` on [0, 1], sampled at ``u = k / T``.

The betas that follow, :math:`1 - \bar\alpha_k / \bar\alpha_{k-1}`, are clipped at 0.999, as the papers' codes do; without
it the last alpha_bar would be 0 and eps-prediction singular.
"""

import math

import torch
from torch import Tensor

from diffsweep.schedules.base import DiscreteSchedule
from diffsweep.schedules.beta import log_alpha_bar_of_betas


def _grid(num_steps: int) -> Tensor:
    if num_steps < 1:
        raise ValueError(f"schedule.num_steps must be at least 1, not {num_steps}")
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def _clipped(alpha_bar: Tensor) -> Tensor:
    return log_alpha_bar_of_betas(1 - alpha_bar[1:] / alpha_bar[:-1])


class Cosine(DiscreteSchedule):
    r""":math:`\bar\alpha(u) = f(u) / f(0)`, :math:`f(u) = \cos^2(\frac{u + s}{1 + s} \frac{\pi}{2})` (Nichol & Dhariwal 2021, arXiv:2102.09672).

    Args:
        num_steps: T, at least 1.
        s: the offset that keeps the first betas from vanishing.
        zero_terminal_snr: end at exactly no signal (arXiv:2305.08891).
    """

    def __init__(self, num_steps: int = 1000, s: float = 0.008, zero_terminal_snr: bool = False) -> None:
        if s < 0:
            raise ValueError(f"schedule.s must be at least 0, not {s}")
        f = torch.cos((_grid(num_steps) + s) / (1 + s) * math.pi / 2) ** 2
        super().__init__(_clipped(f), zero_terminal_snr)


class SigmoidAlphaBar(DiscreteSchedule):
    r"""Sigmoid in :math:`\bar\alpha` (Chen 2023, arXiv:2301.10972): with :math:`g(u) = \mathrm{logistic}((a + (b - a) u) / \tau)`,
    :math:`\bar\alpha(u) = (g(1) - g(u)) / (g(1) - g(0))`.

    Args:
        num_steps: T, at least 1.
        start: a, where the logistic begins.
        end: b, where it ends.
        tau: temperature; a smaller one makes the middle steeper.
        zero_terminal_snr: end at exactly no signal (arXiv:2305.08891).
    """

    def __init__(
        self,
        num_steps: int = 1000,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        zero_terminal_snr: bool = False,
    ) -> None:
        if not (start < end and tau > 0):
            raise ValueError(f"schedule needs start < end and tau > 0, not {start}, {end} and {tau}")
        g = torch.sigmoid((start + (end - start) * _grid(num_steps)) / tau)
        super().__init__(_clipped((g[-1] - g) / (g[-1] - g[0])), zero_terminal_snr)
