r"""What the output ``F`` of a network means, and how its input and time are scaled.

Each prediction is linear: ``x0 = c_skip x_t + c_out F`` with coefficients of ``(alpha_t, sigma_t)``, the network sees
``c_in x_t`` and the time ``c_noise``. It converts to x0 and to eps, and back: the training target.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.schedules import Schedule

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Scale = Tensor | float  # alpha or sigma: a tensor that broadcasts with x_t, or one number for the batch


_MIXES: dict[str, float | None] = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": None}


def _like(scale: Scale, value: float) -> Scale:
    return torch.full_like(scale, value) if isinstance(scale, Tensor) else value


class Coefficients(NamedTuple):
    """``x0 = c_skip x_t + c_out F(c_in x_t)``, each of the shape of ``alpha``."""

    c_in: Scale
    c_skip: Scale
    c_out: Scale


class Prediction(Part, ABC):
    """The meaning of a network's output.

    Args:
        variance: the variance of an ancestral step: ``fixed_small`` is the posterior's, right for data of variance 0;
            ``fixed_large`` the forward step's, right for data of variance 1 (DDPM, section 3.2); ``learned_range`` a
            second head of the network says, number by number, where the log-variance lies between the two (improved
            DDPM, arXiv:2102.09672, eq. 15).

    Attributes:
        heads: how many times the channels of x the network puts out.
        variance_mix: 0 (fixed small) or 1 (fixed large); None where it is learned.
    """

    def __init__(self, variance: Variance = "fixed_small") -> None:
        if variance not in _MIXES:
            raise ValueError(f"prediction.variance is one of {', '.join(_MIXES)}, not {variance}")
        self.variance_mix = _MIXES[variance]
        self.heads = 2 if self.variance_mix is None else 1
        if self.heads == 2:
            self.provides = self.provides | {"learned_variance"}

    @abstractmethod
    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        """c_in, c_skip and c_out at a noise level."""

    def c_in(self, alpha: Scale, sigma: Scale) -> Scale:
        """The c_in of :meth:`coefficients` alone: the number 1 where the network sees x_t as it is."""
        return 1.0

    @abstractmethod
    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """eps from the output, in the form that stays accurate at small sigma; alpha and sigma broadcast with x_t."""

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """The output of a perfect network: the inverse of the conversion."""

    def x0(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """x0 from the output; alpha and sigma broadcast with x_t."""
        _, c_skip, c_out = self.coefficients(alpha, sigma)
        if isinstance(c_out, float):  # of a walk: one pass less
            return torch.add(c_skip * x_t, output, alpha=c_out)
        return c_skip * x_t + c_out * output

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The time that the network is told, of the shape of ``t``."""
        return schedule.embedded_time(t)


class Eps(Prediction):
    """The output is the noise (DDPM, arXiv:2006.11239)."""

    provides = frozenset({"eps_output"})

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(_like(alpha, 1.0), 1 / alpha, -sigma / alpha)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return eps


class X0(Prediction):
    """The output is the clean sample."""

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(_like(alpha, 1.0), _like(alpha, 0.0), _like(alpha, 1.0))

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t - alpha * output) / sigma

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return x_0


class V(Prediction):
    r"""The output is the velocity :math:`v = (\alpha \epsilon - \sigma x_0) / \sqrt{\alpha^2 + \sigma^2}` (Salimans & Ho 2022, arXiv:2202.00512).

    The norm is 1 on a variance-preserving schedule; with it, v is a rotation of (x0, eps) on every schedule.
    """

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        square = alpha**2 + sigma**2
        return Coefficients(_like(alpha, 1.0), alpha / square, -sigma / square**0.5)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        square = alpha**2 + sigma**2
        return sigma / square * x_t + alpha / square**0.5 * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (alpha * eps - sigma * x_0) / (alpha**2 + sigma**2) ** 0.5


class Score(Prediction):
    r"""The output is the score :math:`\nabla_x \log p_t(x_t) = -\epsilon / \sigma` (NCSN, arXiv:1907.05600; score SDE, arXiv:2011.13456).

    The network's input is scaled to the size of unit data, which matters where sigma is large.

    Args:
        variance: see :class:`Prediction`.
        scale_by_sigma: the output is sigma times the score, as in score_sde's networks: of one size at every level.
    """

    def __init__(self, variance: Variance = "fixed_small", scale_by_sigma: bool = False) -> None:
        super().__init__(variance)
        self.scale_by_sigma = scale_by_sigma

    def _unit(self, sigma: Scale) -> Scale:
        """What eps is a multiple of the output by, up to its sign."""
        return _like(sigma, 1.0) if self.scale_by_sigma else sigma

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(self.c_in(alpha, sigma), 1 / alpha, sigma * self._unit(sigma) / alpha)

    def c_in(self, alpha: Scale, sigma: Scale) -> Scale:
        return 1 / (alpha**2 + sigma**2) ** 0.5

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return -self._unit(sigma) * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return -eps / self._unit(sigma)


class Flow(Prediction):
    r"""The output is the velocity :math:`\epsilon - x_0` of the straight path (flow matching, arXiv:2210.02747; rectified flow,
    arXiv:2209.03003), on any schedule."""

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        total = alpha + sigma
        return Coefficients(_like(alpha, 1.0), 1 / total, -sigma / total)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t + alpha * output) / (alpha + sigma)

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return eps - x_0


class EDM(Prediction):
    r"""EDM's preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1): input and output of unit variance, the least
    amplification of the output's errors. With :math:`n^2 = \sigma^2 + \alpha^2 \sigma_{data}^2`,

    .. math:: x_0 = \frac{\alpha \sigma_{data}^2}{n^2} x_t + \frac{\sigma \sigma_{data}}{n} F(x_t / n, c_{noise}), \qquad
        c_{noise} = \tfrac14 \log(\sigma / \alpha),

    the paper's coefficients where alpha = 1, and the same function of x_t / alpha on any other schedule.

    Args:
        variance: see :class:`Prediction`.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, variance: Variance = "fixed_small", sigma_data: float = 0.5) -> None:
        super().__init__(variance)
        if sigma_data <= 0:
            raise ValueError(f"prediction.sigma_data must be positive, not {sigma_data}")
        self.sigma_data = sigma_data

    def _norm(self, alpha: Scale, sigma: Scale) -> Scale:
        return (sigma**2 + (alpha * self.sigma_data) ** 2) ** 0.5

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        norm = self._norm(alpha, sigma)
        return Coefficients(
            self.c_in(alpha, sigma), alpha * self.sigma_data**2 / norm**2, sigma * self.sigma_data / norm
        )

    def c_in(self, alpha: Scale, sigma: Scale) -> Scale:
        return 1 / self._norm(alpha, sigma)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        norm = self._norm(alpha, sigma)
        return sigma / norm**2 * x_t - alpha * self.sigma_data / norm * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (sigma / self.sigma_data * x_0 - alpha * self.sigma_data * eps) / self._norm(alpha, sigma)

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """log(sigma / alpha) / 4, within +-5: the log-SNR may be infinite at an end."""
        return (-schedule.log_snr(t) / 8).clamp(-5, 5)
