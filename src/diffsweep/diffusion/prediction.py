r"""What the output ``F`` of a network means, and how its input and time are scaled.

Each prediction is linear: ``x0 = c_skip x_t + c_out F`` with coefficients of ``(alpha_t, sigma_t)``, the network sees
``c_in x_t`` and the time ``c_noise``. It converts to x0 and to eps, and back: the training target.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.schedules import Schedule

Variance = Literal["fixed_small", "fixed_large"]
Level = Tensor | float  # alpha or sigma: a tensor that broadcasts with x_t, or one number for the batch


def _like(level: Level, value: float) -> Level:
    return torch.full_like(level, value) if isinstance(level, Tensor) else value


class Coefficients(NamedTuple):
    """``x0 = c_skip x_t + c_out F(c_in x_t)``, each of the shape of ``alpha``."""

    c_in: Level
    c_skip: Level
    c_out: Level


class Prediction(ABC):
    """The meaning of a network's output.

    Args:
        variance: the variance of an ancestral step: ``fixed_small`` is the posterior's, right for data of variance 0;
            ``fixed_large`` the forward step's, right for data of variance 1 (DDPM, section 3.2).
    """

    def __init__(self, variance: Variance = "fixed_small") -> None:
        if variance not in ("fixed_small", "fixed_large"):
            raise ValueError(f"prediction.variance is fixed_small or fixed_large, not {variance}")
        self.variance_mix = 0.0 if variance == "fixed_small" else 1.0

    @abstractmethod
    def coefficients(self, alpha: Level, sigma: Level) -> Coefficients:
        """c_in, c_skip and c_out at a noise level."""

    @abstractmethod
    def eps(self, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """eps from the output, in the form that stays accurate at small sigma; alpha and sigma broadcast with x_t."""

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """The output of a perfect network: the inverse of the conversion."""

    def x0(self, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """x0 from the output; alpha and sigma broadcast with x_t."""
        _, c_skip, c_out = self.coefficients(alpha, sigma)
        return c_skip * x_t + c_out * output

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The time a network sees: 1000 (t - 1/T), at least 0, on a discrete schedule; 1000 t on a continuous one.

        The public checkpoints count steps from 0 and embed them so.
        """
        if schedule.num_steps is None:
            return 1000 * t
        return (1000 * (t - 1 / schedule.num_steps)).clamp(min=0)


class Eps(Prediction):
    """The output is the noise (DDPM, arXiv:2006.11239)."""

    def coefficients(self, alpha: Level, sigma: Level) -> Coefficients:
        return Coefficients(_like(alpha, 1.0), 1 / alpha, -sigma / alpha)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return eps


class X0(Prediction):
    """The output is the clean sample."""

    def coefficients(self, alpha: Level, sigma: Level) -> Coefficients:
        return Coefficients(_like(alpha, 1.0), _like(alpha, 0.0), _like(alpha, 1.0))

    def eps(self, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return (x_t - alpha * output) / sigma

    def target(self, x_0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return x_0


class V(Prediction):
    r"""The output is the velocity :math:`v = (\alpha \epsilon - \sigma x_0) / \sqrt{\alpha^2 + \sigma^2}` (Salimans & Ho 2022, arXiv:2202.00512).

    The norm is 1 on a variance-preserving schedule; with it, v is a rotation of (x0, eps) on every schedule.
    """

    def coefficients(self, alpha: Level, sigma: Level) -> Coefficients:
        square = alpha**2 + sigma**2
        return Coefficients(_like(alpha, 1.0), alpha / square, -sigma / square**0.5)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        square = alpha**2 + sigma**2
        return sigma / square * x_t + alpha / square**0.5 * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return (alpha * eps - sigma * x_0) / (alpha**2 + sigma**2) ** 0.5
