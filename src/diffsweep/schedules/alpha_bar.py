r"""Discrete schedules given by a function :math:`\bar\alpha(u)` that falls from 1 to 0 on [0, 1], sampled at u = k / T.

The schedule is :math:`\alpha_t = \sqrt{\bar\alpha_k}, \sigma_t = \sqrt{1 - \bar\alpha_k}` at t = k / T. The betas
that follow, :math:`\beta_k = 1 - \bar\alpha_k / \bar\alpha_{k-1}`, are clipped at 0.999, as in the papers' codes.
Without the clipping the last alpha_bar would be 0, where x_0 cannot be computed from eps.
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
    r"""The cosine schedule, :math:`\bar\alpha(u) = f(u) / f(0)` (Nichol & Dhariwal 2021, arXiv:2102.09672).

    Here :math:`f(u) = \cos^2(\frac{u + s}{1 + s} \frac{\pi}{2})`, u = k / T, and
    :math:`\bar\alpha = \alpha_t^2 = 1 - \sigma_t^2`. The betas that follow are clipped at 0.999.

    Args:
        num_steps: T, at least 1.
        s: the offset that keeps the first betas from vanishing, at least 0.
        zero_terminal_snr: whether to rescale the schedule so that alpha is exactly 0 at t = 1 (arXiv:2305.08891).

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, num_steps: int = 1000, s: float = 0.008, zero_terminal_snr: bool = False) -> None:
        if s < 0:
            raise ValueError(f"schedule.s must be at least 0, not {s}")
        f = torch.cos((_grid(num_steps) + s) / (1 + s) * math.pi / 2) ** 2
        super().__init__(_clipped(f), zero_terminal_snr)


class SigmoidAlphaBar(DiscreteSchedule):
    r"""A schedule whose :math:`\bar\alpha` is a falling sigmoid (Chen 2023, arXiv:2301.10972).

    With :math:`g(u) = \mathrm{logistic}((a + (b - a) u) / \tau)` it is
    :math:`\bar\alpha(u) = (g(1) - g(u)) / (g(1) - g(0))` at u = k / T, and
    :math:`\bar\alpha = \alpha_t^2 = 1 - \sigma_t^2`. The betas that follow are clipped at 0.999.

    Args:
        num_steps: T, at least 1.
        start: a; the argument of the logistic function is a / tau at u = 0.
        end: b; the argument is b / tau at u = 1. It is larger than a.
        tau: temperature, positive; a smaller one makes the middle steeper.
        zero_terminal_snr: whether to rescale the schedule so that alpha is exactly 0 at t = 1 (arXiv:2305.08891).

    Raises:
        ValueError: an argument is out of its range.
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
