r"""Discrete schedules given by :math:`\beta_k`, one step's noise variance; :math:`\bar\alpha_k = \prod_{j \le k} (1 - \beta_j)`.

With :math:`u = (k - 1) / (T - 1)` in [0, 1] and :math:`b_0, b_1` the first and the last beta. The betas are meant for
T = 1000 and scale with 1000 / T, as in improved-diffusion (diffusers does not scale): alpha_bar at the end is then about
the same for any T. Betas are clipped at 0.999.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffsweep.schedules.base import DiscreteSchedule

MAX_BETA = 0.999


def log_alpha_bar_of_betas(betas: Tensor) -> Tensor:
    r""":math:`\log \bar\alpha_k`, float64, shape (T,), from betas of shape (T,), clipped to at most 0.999."""
    return torch.log1p(-betas.double().clamp(max=MAX_BETA)).cumsum(0)


class BetaSchedule(DiscreteSchedule, ABC):
    """A schedule whose betas follow a curve between ``beta_start`` and ``beta_end``.

    Args:
        num_steps: T, at least 1.
        beta_start: the first beta at T = 1000.
        beta_end: the last beta at T = 1000.
        zero_terminal_snr: rescale so that it ends at exactly no signal (arXiv:2305.08891).
    """

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        zero_terminal_snr: bool = False,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"schedule.num_steps must be at least 1, not {num_steps}")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"betas need 0 < beta_start <= beta_end < 1, not {beta_start} and {beta_end}")
        self.beta_start, self.beta_end = beta_start, beta_end
        u = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        betas = self.betas(u, beta_start, beta_end) * (1000 / num_steps)
        super().__init__(log_alpha_bar_of_betas(betas), zero_terminal_snr)

    @staticmethod
    @abstractmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        """The betas at ``u`` in [0, 1], for T = 1000."""


class Linear(BetaSchedule):
    """``b0 + (b1 - b0) u``: DDPM (Ho et al. 2020, arXiv:2006.11239)."""

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * u


class ScaledLinear(BetaSchedule):
    """``(sqrt b0 + (sqrt b1 - sqrt b0) u)^2``: latent diffusion (arXiv:2112.10752), whose code calls it "linear"."""

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return (b0**0.5 + (b1**0.5 - b0**0.5) * u) ** 2


class Quadratic(BetaSchedule):
    """``b0 + (b1 - b0) u^2``. (Many codes call the scaled linear schedule quadratic.)"""

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * u**2


class Exponential(BetaSchedule):
    """``b0 (b1 / b0)^u``: geometric betas."""

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 * (b1 / b0) ** u


class Sigmoid(BetaSchedule):
    """The logistic function of ``12 u - 6``, between b0 and b1: sigmoid in *beta*, as in GeoDiff and diffusers.

    Chen's sigmoid (in alpha_bar) is another curve: :class:`~diffsweep.schedules.alpha_bar.SigmoidAlphaBar`.
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * torch.sigmoid(12 * u - 6)


class Constant(BetaSchedule):
    r"""``b0``: one beta for all steps.

    Args:
        num_steps: T, at least 1.
        beta_start: the beta at T = 1000; 0.01 ends at about the alpha_bar of the linear schedule, 4e-5.
        zero_terminal_snr: see :class:`BetaSchedule`.
    """

    def __init__(self, num_steps: int = 1000, beta_start: float = 0.01, zero_terminal_snr: bool = False) -> None:
        super().__init__(num_steps, beta_start, beta_start, zero_terminal_snr)

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return torch.full_like(u, b0)
