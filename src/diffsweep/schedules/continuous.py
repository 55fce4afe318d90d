r"""Continuous schedules: alpha_t, sigma_t and the log-SNR in closed form, for any t in [0, 1].

The log-SNR is :math:`\lambda(t) = \log(\alpha_t^2 / \sigma_t^2)`, where
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`.

=================  =====================================  =============================================
variance           alpha_t and sigma_t                    classes
=================  =====================================  =============================================
preserving         :math:`\alpha_t^2 + \sigma_t^2 = 1`    :class:`VP`, :class:`CosineContinuous`
exploding          :math:`\alpha_t = 1`, sigma_t grows    :class:`VE`, :class:`EDM`
in between         see each class                         :class:`SubVP`, :class:`Flow`
=================  =====================================  =============================================

Each class has the inverse of :math:`\lambda` in closed form too. Where sigma vanishes at t = 0 or alpha at t = 1,
:math:`\lambda` is infinite; training times stay in [t_min, t_max], where it is finite.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.schedules.base import Schedule


class ContinuousSchedule(Schedule, ABC):
    """A schedule without a grid, computed in float64 and returned in the dtype of its argument.

    A subclass defines :meth:`levels`, :meth:`exact_log_snr` and :meth:`exact_time_of`, all in float64.
    """

    provides = frozenset({"rate"})

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at times ``t``, both like t, all float64; each subclass defines it."""

    @abstractmethod
    def exact_log_snr(self, t: Tensor) -> Tensor:
        """Return the log-SNR at times ``t``, like t, both float64; each subclass defines it."""

    @abstractmethod
    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        """Return the times at which the log-SNR has given values, both float64; each subclass defines it.

        Values out of the range of the schedule give 0 or 1.
        """

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.levels(t.double())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.exact_log_snr(t.double()).to(t.dtype)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.exact_time_of(log_snr.double()).to(log_snr.dtype)


class _LinearBeta(ContinuousSchedule, ABC):
    r"""A schedule with :math:`\alpha_t = e^{-a(t)}` for a rate :math:`\beta(t)` that is linear in t.

    Here :math:`a(t) = \frac12 \int_0^t \beta = \frac{\beta_0}{2} t + \frac{\beta_1 - \beta_0}{4} t^2`.
    """

    def __init__(self, beta_start: float = 0.1, beta_end: float = 20.0, t_min: float = 1e-5) -> None:
        super().__init__()
        if not 0 < beta_start <= beta_end:
            raise ValueError(f"schedule needs 0 < beta_start <= beta_end, not {beta_start} and {beta_end}")
        self.beta_start, self.beta_end, self.t_min = beta_start, beta_end, _checked_t_min(t_min)

    def _decay(self, t: Tensor) -> Tensor:
        return t * (self.beta_start / 2 + (self.beta_end - self.beta_start) / 4 * t)

    def _time(self, decay: Tensor) -> Tensor:
        """Return the inverse of :meth:`_decay`, by the form of the quadratic's root that does not cancel at small t."""
        half = self.beta_start / 2
        t = 2 * decay / (half + (half**2 + (self.beta_end - self.beta_start) * decay).sqrt())
        return torch.where(decay.isinf(), torch.ones_like(t), t).clamp(0, 1)


class VP(_LinearBeta):
    r"""The variance-preserving schedule with a rate beta linear in t (Song et al. 2021, arXiv:2011.13456, eq. 33).

    :math:`\alpha_t = e^{-a(t)}` with :math:`a(t) = \frac12 \int_0^t \beta`, and :math:`\sigma_t^2 = 1 - \alpha_t^2`.

    Args:
        beta_start: the rate beta at t = 0, positive.
        beta_end: the rate beta at t = 1, at least that at t = 0.
        t_min: the smallest training time, between 0 and 0.5.

    Raises:
        ValueError: an argument is out of its range.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = self._decay(t)
        return torch.exp(-decay), (-torch.expm1(-2 * decay)).sqrt()

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(2 * self._decay(t)))

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return self._time(functional.softplus(-log_snr) / 2)


class SubVP(_LinearBeta):
    r"""The sub-variance-preserving schedule (Song et al. 2021, arXiv:2011.13456, app. B).

    The alpha is that of :class:`VP`, :math:`\alpha_t = e^{-a(t)}` with :math:`a(t) = \frac12 \int_0^t \beta` and a rate
    beta linear in t. :math:`\sigma_t = 1 - \alpha_t^2` is less noise than :class:`VP` has at the same time.

    Args:
        beta_start: the rate beta at t = 0, positive.
        beta_end: the rate beta at t = 1, at least that at t = 0.
        t_min: the smallest training time, between 0 and 0.5.

    Raises:
        ValueError: an argument is out of its range.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = self._decay(t)
        return torch.exp(-decay), -torch.expm1(-2 * decay)

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(2 * torch.sinh(self._decay(t)))  # alpha / sigma = 1 / (2 sinh a)

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.asinh(torch.exp(-log_snr / 2) / 2))


class VE(ContinuousSchedule):
    r"""The variance-exploding schedule with a geometric sigma (Song et al. 2021, arXiv:2011.13456, eq. 31).

    :math:`\alpha_t = 1` and :math:`\sigma_t = \sigma_{min} (\sigma_{max} / \sigma_{min})^t`. At t = 0 sigma is
    sigma_min and not 0, so samplers append a step from t = 0 to clean data.

    Args:
        sigma_min: sigma at t = 0, positive.
        sigma_max: sigma at t = 1, above sigma_min; about the largest distance between two samples (arXiv:2006.09011).

    Raises:
        ValueError: an argument is out of its range.
    """

    clean_at_zero = False

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"schedule needs 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.exp(-self.exact_log_snr(t) / 2)

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.lerp(
            torch.full_like(t, math.log(self.sigma_min)), torch.full_like(t, math.log(self.sigma_max)), t
        )

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((-log_snr / 2 - low) / (high - low)).clamp(0, 1)


class EDM(ContinuousSchedule):
    r"""The schedule of EDM, :math:`\alpha_t = 1` and :math:`\sigma_t = \sigma_{max} t`.

    EDM is Karras et al. 2022, arXiv:2206.00364.

    Args:
        sigma_max: sigma at t = 1, above sigma_min.
        sigma_min: the smallest sigma in training and of steps in log-SNR, positive;
            :math:`t_{min} = \sigma_{min} / \sigma_{max}`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, sigma_max: float = 80.0, sigma_min: float = 0.002) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"schedule needs 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max, self.t_min = sigma_min, sigma_max, sigma_min / sigma_max

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * (t.log() + math.log(self.sigma_max))

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2 - math.log(self.sigma_max)).clamp(0, 1)


class Flow(ContinuousSchedule):
    r"""The straight path :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t` of flow matching and rectified flow.

    The papers are arXiv:2210.02747 and arXiv:2209.03003. At t = 1 no signal is left.

    Args:
        t_min: training times lie in [t_min, 1 - t_min]; between 0 and 0.5.

    Raises:
        ValueError: t_min is out of its range.
    """

    zero_terminal_snr = True
    straight = True

    def __init__(self, t_min: float = 1e-5) -> None:
        super().__init__()
        self.t_min = _checked_t_min(t_min)
        self.t_max = 1 - self.t_min

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.clone()

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class LogSNRSchedule(ContinuousSchedule, ABC):
    r"""A variance-preserving schedule given by its log-SNR :math:`\lambda(t)`, which is finite on all of [0, 1].

    :math:`\alpha_t^2 = \mathrm{logistic}(\lambda)` and :math:`\sigma_t^2 = \mathrm{logistic}(-\lambda)`. A subclass
    defines :math:`\lambda` as :meth:`exact_log_snr`, and its inverse as :meth:`exact_time_of`.
    """

    clean_at_zero = False

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        half = self.exact_log_snr(t)
        return torch.exp(functional.logsigmoid(half) / 2), torch.exp(functional.logsigmoid(-half) / 2)


class CosineContinuous(LogSNRSchedule):
    r"""The cosine schedule in continuous time, truncated at both ends and shifted for the resolution.

    From simple diffusion (arXiv:2301.11093): the log-SNR is
    :math:`\lambda(t) = -2 \log\tan(a + (b - a) t) + 2 \log(d_0 / d)`, with a and b such that the first term runs from
    ``log_snr_max`` at t = 0 to ``log_snr_min`` at t = 1.

    Args:
        image_size: d, the side of the images in pixels.
        base_size: d_0, the side at which the cosine schedule needs no shift (64 in the paper); None for no shift.
        log_snr_min, log_snr_max: the log-SNR at t = 1 and at t = 0, before the shift; the former is smaller.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        image_size: int = 64,
        base_size: int | None = None,
        log_snr_min: float = -15.0,
        log_snr_max: float = 15.0,
    ) -> None:
        super().__init__()
        if not log_snr_min < log_snr_max:
            raise ValueError(f"schedule needs log_snr_min < log_snr_max, not {log_snr_min} and {log_snr_max}")
        if image_size < 1 or (base_size is not None and base_size < 1):
            raise ValueError(f"schedule.image_size and base_size must be at least 1, not {image_size} and {base_size}")
        self.shift = 0.0 if base_size is None else 2 * math.log(base_size / image_size)
        self._a, self._b = (math.atan(math.exp(-end / 2)) for end in (log_snr_max, log_snr_min))

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.tan(self._a + (self._b - self._a) * t).log() + self.shift

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp((self.shift - log_snr) / 2))
        return ((angle - self._a) / (self._b - self._a)).clamp(0, 1)


def _checked_t_min(t_min: float) -> float:
    if not 0 < t_min < 0.5:
        raise ValueError(f"schedule.t_min must lie between 0 and 0.5, not {t_min}")
    return t_min
