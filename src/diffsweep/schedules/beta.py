r"""Discrete schedules given by the noise variance :math:`\beta_k` of each step.

.. math:: \bar\alpha_k = \prod_{j \le k} (1 - \beta_j), \qquad \alpha_t = \sqrt{\bar\alpha_k}, \quad
    \sigma_t = \sqrt{1 - \bar\alpha_k} \quad \text{at } t = k / T.

Each class is a curve :math:`\beta(u)` with :math:`u = (k - 1) / (T - 1)` in [0, 1], from :math:`b_0`, the first beta,
to :math:`b_1`, the last. Betas are given for T = 1000 and scaled by 1000 / T, as in improved-diffusion (diffusers
does not scale): alpha_bar at the end is then about the same for any T. Betas are clipped at 0.999.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffsweep.schedules.base import DiscreteSchedule

MAX_BETA = 0.999


def log_alpha_bar_of_betas(betas: Tensor) -> Tensor:
    r"""Return :math:`\log \bar\alpha_k = \sum_{j \le k} \log(1 - \beta_j)`, float64, (T,), from betas (T,).

    The betas are clipped to at most 0.999.
    """
    return torch.log1p(-betas.double().clamp(max=MAX_BETA)).cumsum(0)


class BetaSchedule(DiscreteSchedule, ABC):
    r"""A discrete schedule whose T betas follow a curve from ``beta_start`` to ``beta_end``.

    :math:`\alpha_t^2` at t = k / T is the product of 1 - beta over the first k betas, and :math:`\sigma_t^2` is the
    rest to 1. The betas are given for T = 1000; for any other T they are multiplied by 1000 / T. They are clipped to at
    most 0.999. A subclass defines the curve as :meth:`betas`.

    Args:
        num_steps: T, at least 1.
        beta_start: the first beta, for T = 1000, above 0.
        beta_end: the last beta, for T = 1000, at least the first one and below 1.
        zero_terminal_snr: whether to rescale the schedule so that alpha is exactly 0 at t = 1 (arXiv:2305.08891).

    Raises:
        ValueError: an argument is out of its range.
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
        """Return the betas for T = 1000 on the curve from b0 at u = 0 to b1 at u = 1; each subclass defines it.

        Args:
            u: the place on the curve, in [0, 1], (T,).
            b0, b1: the first and the last beta.

        Returns:
            the betas, like ``u``.
        """


class Linear(BetaSchedule):
    """A schedule with linear betas, ``b0 + (b1 - b0) u`` for u from 0 to 1 (Ho et al. 2020, arXiv:2006.11239).

    It is that of DDPM. Here b0 is ``beta_start`` and b1 is ``beta_end``.
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * u


class ScaledLinear(BetaSchedule):
    """A schedule whose betas have linear square roots, ``(sqrt b0 + (sqrt b1 - sqrt b0) u)^2`` for u from 0 to 1.

    Here b0 is ``beta_start`` and b1 is ``beta_end``. It is the schedule of latent diffusion (arXiv:2112.10752), whose
    code calls it "linear".
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return (b0**0.5 + (b1**0.5 - b0**0.5) * u) ** 2


class Quadratic(BetaSchedule):
    """A schedule with quadratic betas, ``b0 + (b1 - b0) u^2`` for u from 0 to 1.

    Here b0 is ``beta_start`` and b1 is ``beta_end``. Many codes call another schedule quadratic: :class:`ScaledLinear`.
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * u**2


class Exponential(BetaSchedule):
    """A schedule with geometric betas, ``b0 (b1 / b0)^u`` for u from 0 to 1.

    Here b0 is ``beta_start`` and b1 is ``beta_end``.
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 * (b1 / b0) ** u


class Sigmoid(BetaSchedule):
    """A schedule whose betas rise from about b0 to about b1 by the logistic function of ``12 u - 6``, u from 0 to 1.

    Here b0 is ``beta_start`` and b1 is ``beta_end``. It is the schedule of GeoDiff and diffusers, in which beta is a
    sigmoid. In Chen's sigmoid schedule alpha_bar is one, which is another curve:
    :class:`~diffsweep.schedules.alpha_bar.SigmoidAlphaBar`.
    """

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return b0 + (b1 - b0) * torch.sigmoid(12 * u - 6)


class Constant(BetaSchedule):
    """A discrete schedule with one beta for all T steps.

    Args:
        num_steps: T, at least 1.
        beta_start: the beta for T = 1000, multiplied by 1000 / T for any other T; with 0.01 alpha_bar ends at 4e-5,
            about as on the linear schedule.
        zero_terminal_snr: whether to rescale the schedule so that alpha is exactly 0 at t = 1 (arXiv:2305.08891).
    """

    def __init__(self, num_steps: int = 1000, beta_start: float = 0.01, zero_terminal_snr: bool = False) -> None:
        super().__init__(num_steps, beta_start, beta_start, zero_terminal_snr)

    @staticmethod
    def betas(u: Tensor, b0: float, b1: float) -> Tensor:
        return torch.full_like(u, b0)
