r"""A prediction defines what the output of a network means and how its input and time are scaled.

.. math:: x_0 = c_{skip} x_t + c_{out} F(c_{in} x_t, c_{noise})

Here F is the network. The coefficients depend on alpha_t and sigma_t alone. From x_0 follows eps by
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. The other way, from x_0 and eps, a prediction gives the target of
training, the output of a perfect network:

================  ====================================================================================
class             target
================  ====================================================================================
:class:`Eps`      :math:`\epsilon`
:class:`X0`       :math:`x_0`
:class:`V`        :math:`(\alpha \epsilon - \sigma x_0) / \sqrt{\alpha^2 + \sigma^2}`
:class:`Score`    :math:`-\epsilon / \sigma`
:class:`Flow`     :math:`\epsilon - x_0`
:class:`EDM`      a mixture of :math:`x_0` and :math:`\epsilon` of unit variance at every noise level
================  ====================================================================================
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.schedules import Schedule

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Scale = Tensor | float  # alpha or sigma: a tensor that broadcasts with x_t, or one number for the batch


_VARIANCE_MIXES: dict[str, float | None] = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": None}


def _constant_like(scale: Scale, value: float) -> Scale:
    return torch.full_like(scale, value) if isinstance(scale, Tensor) else value


class Coefficients(NamedTuple):
    """The coefficients of ``x0 = c_skip x_t + c_out F(c_in x_t)`` for a network F, tensors or numbers like alpha."""

    c_in: Scale
    c_skip: Scale
    c_out: Scale


class Prediction(Part, ABC):
    """A definition of what a network's output means (eps, x_0, v, ...), and of how its input and time are scaled.

    A subclass defines :meth:`coefficients`, :meth:`eps` and :meth:`target`.

    Args:
        variance: the variance of a step of the ancestral sampler from t to s. ``fixed_small``: that of x_s given x_t
            and x_0, which is right for data at a single point. ``fixed_large``: that of the forward step from s to t,
            right for standard normal data (DDPM, section 3.2). ``learned_range``: a second head of the network gives,
            for each number of x, where the log-variance lies between the two (improved DDPM, arXiv:2102.09672, eq. 15).
        time_scale, time_offset: factor of, and then number added to, what the network is given for the time, as some
            published networks need it.

    Attributes:
        outputs: the number of quantities that are predicted, of the channels of x each.
        heads: the channels of the network's output as a multiple of those of x: ``outputs``, and one more for a learned
            variance.
        variance_mix: 0 (fixed small) or 1 (fixed large); None if it is learned.
    """

    outputs = 1

    def __init__(self, variance: Variance = "fixed_small", time_scale: float = 1.0, time_offset: float = 0.0) -> None:
        self.time_scale, self.time_offset = time_scale, time_offset
        if variance not in _VARIANCE_MIXES:
            raise ValueError(f"prediction.variance is one of {', '.join(_VARIANCE_MIXES)}, not {variance}")
        self.variance_mix = _VARIANCE_MIXES[variance]
        self.heads = self.outputs + (self.variance_mix is None)
        if self.variance_mix is None:
            self.provides = self.provides | {"learned_variance"}

    def combined(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Return F, like x_t, of the network's output (B, ``outputs`` C, ...); by default it is the output."""
        return output

    @abstractmethod
    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        """Return c_in, c_skip and c_out of ``x0 = c_skip x_t + c_out F(c_in x_t)``; each subclass defines it.

        Args:
            alpha, sigma: the noise level; tensors that broadcast with x_t, or one number each for the batch.
        """

    def c_in(self, alpha: Scale, sigma: Scale) -> Scale:
        """Return c_in alone, the factor of the network's input; the number 1 if the network receives x_t as it is."""
        return 1.0

    @abstractmethod
    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Return eps from the network's output, in the form that stays accurate at small sigma, like x_t.

        Each subclass defines it.

        Args:
            output: F, like x_t.
            x_t: noisy samples, (B, ...).
            alpha, sigma: the noise level; they broadcast with x_t.
        """

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Return the output of a perfect network for samples x_0 and noise eps, like x_0: the target of training.

        Each subclass defines it.

        Args:
            x_0: clean samples, (B, ...).
            eps: the noise in x_t, like x_0.
            alpha, sigma: the noise level; they broadcast with x_0.
        """

    def x0(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Return the estimate of x_0 from the network's output, ``c_skip x_t + c_out F``, like x_t.

        Args:
            output: F, like x_t.
            x_t: noisy samples, (B, ...).
            alpha, sigma: the noise level; they broadcast with x_t.
        """
        _, c_skip, c_out = self.coefficients(alpha, sigma)
        if isinstance(c_out, float):  # one time for the batch: one pass over the tensor less
            return torch.add(c_skip * x_t, output, alpha=c_out)
        return c_skip * x_t + c_out * output

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the number that the network is given for the time, like ``t``; by default about 1000 t."""
        return self.time_scale * self._time(schedule, t) + self.time_offset

    def _time(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return the number for the time before it is scaled."""
        return schedule.embedded_time(t)


class Eps(Prediction):
    r"""A prediction of the noise, :math:`F = \epsilon` for the network's output F (DDPM, arXiv:2006.11239)."""

    provides = frozenset({"eps_output"})

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(_constant_like(alpha, 1.0), 1 / alpha, -sigma / alpha)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return eps


class X0(Prediction):
    """A prediction of the clean sample, :math:`F = x_0` for the network's output F."""

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(_constant_like(alpha, 1.0), _constant_like(alpha, 0.0), _constant_like(alpha, 1.0))

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t - alpha * output) / sigma

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return x_0


class V(Prediction):
    r"""A prediction of the velocity :math:`v = (\alpha \epsilon - \sigma x_0) / \sqrt{\alpha^2 + \sigma^2}`.

    It is from Salimans & Ho 2022, arXiv:2202.00512. The root, n, is 1 on a variance-preserving schedule. Dividing by n
    makes :math:`(x_t / n, v)` a rotation of :math:`(x_0, \epsilon)` on every schedule.
    """

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        square = alpha**2 + sigma**2
        return Coefficients(_constant_like(alpha, 1.0), alpha / square, -sigma / square**0.5)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        square = alpha**2 + sigma**2
        return sigma / square * x_t + alpha / square**0.5 * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (alpha * eps - sigma * x_0) / (alpha**2 + sigma**2) ** 0.5


class Score(Prediction):
    r"""A prediction of the score :math:`\nabla_x \log p_t(x_t) = -\epsilon / \sigma`.

    The papers are NCSN, arXiv:1907.05600, and score SDE, arXiv:2011.13456. The network receives
    :math:`x_t / \sqrt{\alpha^2 + \sigma^2}`, of unit variance for data of unit variance, which matters where sigma is
    large.

    Args:
        variance: the variance of an ancestral step, see :class:`Prediction`.
        scale_by_sigma: whether the output is sigma times the score, -eps, as in score_sde's networks, and so of one
            size at every noise level.
        time_scale, time_offset: see :class:`Prediction`.
    """

    def __init__(
        self,
        variance: Variance = "fixed_small",
        scale_by_sigma: bool = False,
        time_scale: float = 1.0,
        time_offset: float = 0.0,
    ) -> None:
        super().__init__(variance, time_scale, time_offset)
        self.scale_by_sigma = scale_by_sigma

    def _factor_of_output(self, sigma: Scale) -> Scale:
        """Return u in eps = -u F for the output F: sigma, or 1 if the output is scaled by sigma."""
        return _constant_like(sigma, 1.0) if self.scale_by_sigma else sigma

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        return Coefficients(self.c_in(alpha, sigma), 1 / alpha, sigma * self._factor_of_output(sigma) / alpha)

    def c_in(self, alpha: Scale, sigma: Scale) -> Scale:
        return 1 / (alpha**2 + sigma**2) ** 0.5

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return -self._factor_of_output(sigma) * output

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return -eps / self._factor_of_output(sigma)


class Flow(Prediction):
    r"""A prediction of the velocity :math:`\epsilon - x_0` of the straight path from data to noise, on any schedule.

    The papers are flow matching, arXiv:2210.02747, and rectified flow, arXiv:2209.03003.
    """

    def coefficients(self, alpha: Scale, sigma: Scale) -> Coefficients:
        total = alpha + sigma
        return Coefficients(_constant_like(alpha, 1.0), 1 / total, -sigma / total)

    def eps(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t + alpha * output) / (alpha + sigma)

    def target(self, x_0: Tensor, eps: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return eps - x_0


class EDM(Prediction):
    r"""A prediction with EDM's preconditioning: input and target have unit variance at every noise level.

    Among such scalings it amplifies the errors of the output least (Karras et al. 2022, arXiv:2206.00364, table 1).
    With :math:`n^2 = \sigma^2 + \alpha^2 \sigma_{data}^2` and the network F,

    .. math:: x_0 = \frac{\alpha \sigma_{data}^2}{n^2} x_t + \frac{\sigma \sigma_{data}}{n} F(x_t / n, c_{noise}),
        \qquad c_{noise} = \tfrac14 \log(\sigma / \alpha).

    These are the paper's coefficients where alpha = 1, and the same function of x_t / alpha on any other schedule.

    Args:
        variance: the variance of an ancestral step, see :class:`Prediction`.
        sigma_data: standard deviation of the data, positive.
        time_scale, time_offset: see :class:`Prediction`.

    Raises:
        ValueError: sigma_data is not positive.
    """

    def __init__(
        self,
        variance: Variance = "fixed_small",
        sigma_data: float = 0.5,
        time_scale: float = 1.0,
        time_offset: float = 0.0,
    ) -> None:
        super().__init__(variance, time_scale, time_offset)
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

    def _time(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return log(sigma / alpha) / 4, clamped to [-5, 5] since it is infinite at some ends of schedules."""
        return (-schedule.log_snr(t) / 8).clamp(-5, 5)
