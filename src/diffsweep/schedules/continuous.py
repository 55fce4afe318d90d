r"""Continuous schedules: functions of t with a closed-form log-SNR and inverse.

Where sigma vanishes at t = 0 or alpha at t = 1 the log-SNR is infinite: training times stay in [t_min, t_max].
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.schedules.base import Schedule


class ContinuousSchedule(Schedule, ABC):
    """A schedule without a grid. A subclass defines the functions below, on float64, whatever dtype is asked in."""

    provides = frozenset({"rate"})

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at ``t``, float64."""

    @abstractmethod
    def exact_log_snr(self, t: Tensor) -> Tensor:
        """The log-SNR at ``t``, float64."""

    @abstractmethod
    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        """The time of a log-SNR, float64."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.levels(t.double())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.exact_log_snr(t.double()).to(t.dtype)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.exact_time_of(log_snr.double()).to(log_snr.dtype)


class _LinearBeta(ContinuousSchedule, ABC):
    r""":math:`\alpha_t = e^{-a(t)}`, :math:`a(t) = \frac12 \int_0^t \beta = \frac{\beta_0}{2} t + \frac{\beta_1 - \beta_0}{4} t^2`."""

    def __init__(self, beta_start: float = 0.1, beta_end: float = 20.0, t_min: float = 1e-5) -> None:
        super().__init__()
        if not 0 < beta_start <= beta_end:
            raise ValueError(f"schedule needs 0 < beta_start <= beta_end, not {beta_start} and {beta_end}")
        self.beta_start, self.beta_end, self.t_min = beta_start, beta_end, _inside(t_min)

    def _decay(self, t: Tensor) -> Tensor:
        return t * (self.beta_start / 2 + (self.beta_end - self.beta_start) / 4 * t)

    def _time(self, decay: Tensor) -> Tensor:
        """The inverse of :meth:`_decay`, in the form of the quadratic's root that does not cancel at small t."""
        half = self.beta_start / 2
        t = 2 * decay / (half + (half**2 + (self.beta_end - self.beta_start) * decay).sqrt())
        return torch.where(decay.isinf(), torch.ones_like(t), t).clamp(0, 1)


class VP(_LinearBeta):
    r"""Variance preserving (Song et al. 2021, arXiv:2011.13456, eq. 33): beta linear in t, :math:`\sigma_t^2 = 1 - \alpha_t^2`.

    Args:
        beta_start: the rate beta at t = 0.
        beta_end: the rate at t = 1.
        t_min: smallest training time.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = self._decay(t)
        return torch.exp(-decay), (-torch.expm1(-2 * decay)).sqrt()

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(2 * self._decay(t)))

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return self._time(functional.softplus(-log_snr) / 2)


class SubVP(_LinearBeta):
    r"""Sub-variance preserving (Song et al. 2021, arXiv:2011.13456, app. B): the alpha of VP, :math:`\sigma_t = 1 - \alpha_t^2`.

    Args:
        beta_start, beta_end, t_min: see :class:`VP`.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        decay = self._decay(t)
        return torch.exp(-decay), -torch.expm1(-2 * decay)

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(2 * torch.sinh(self._decay(t)))  # alpha / sigma = 1 / (2 sinh a)

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.asinh(torch.exp(-log_snr / 2) / 2))


class VE(ContinuousSchedule):
    r"""Variance exploding (arXiv:2011.13456, eq. 31): :math:`\alpha = 1`, :math:`\sigma_t = \sigma_{min} (\sigma_{max} / \sigma_{min})^t`.

    sigma is sigma_min at t = 0: samplers append the step to clean data.

    Args:
        sigma_min: at t = 0.
        sigma_max: at t = 1; about the largest distance between two samples (arXiv:2006.09011).
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
    r"""EDM's (Karras et al. 2022, arXiv:2206.00364): :math:`\alpha = 1`, :math:`\sigma_t = \sigma_{max} t`.

    Args:
        sigma_max: sigma at t = 1.
        sigma_min: the smallest sigma of training and of steps in log-SNR; :math:`t_{min} = \sigma_{min} / \sigma_{max}`.
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
    r"""The straight path of flow matching and rectified flow (arXiv:2210.02747, arXiv:2209.03003):
    :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`. At t = 1 no signal is left.

    Args:
        t_min: training times lie in [t_min, 1 - t_min].
    """

    zero_terminal_snr = True

    def __init__(self, t_min: float = 1e-5) -> None:
        super().__init__()
        self.t_min = _inside(t_min)
        self.t_max = 1 - self.t_min

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.clone()

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class LogSNRSchedule(ContinuousSchedule, ABC):
    r"""A variance-preserving schedule given by its log-SNR :math:`\lambda(t)`, finite on all of [0, 1]:
    :math:`\alpha_t^2 = \mathrm{logistic}(\lambda)`, :math:`\sigma_t^2 = \mathrm{logistic}(-\lambda)`."""

    clean_at_zero = False

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        half = self.exact_log_snr(t)
        return torch.exp(functional.logsigmoid(half) / 2), torch.exp(functional.logsigmoid(-half) / 2)


class CosineContinuous(LogSNRSchedule):
    r"""The cosine schedule in continuous time, truncated, shifted for resolution (simple diffusion, arXiv:2301.11093):
    :math:`\lambda(t) = -2 \log\tan(a + (b - a) t) + 2 \log(d_0 / d)`, a and b such that lambda runs from ``log_snr_max``
    to ``log_snr_min`` before the shift.

    Args:
        image_size: d, the side of the data.
        base_size: d_0, the side at which the plain cosine is right (64 in the paper); None for no shift.
        log_snr_min, log_snr_max: the ends.
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
            raise ValueError(f"schedule.image_size and base_size are at least 1, not {image_size} and {base_size}")
        self.shift = 0.0 if base_size is None else 2 * math.log(base_size / image_size)
        self._a, self._b = (math.atan(math.exp(-end / 2)) for end in (log_snr_max, log_snr_min))

    def exact_log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.tan(self._a + (self._b - self._a) * t).log() + self.shift

    def exact_time_of(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp((self.shift - log_snr) / 2))
        return ((angle - self._a) / (self._b - self._a)).clamp(0, 1)


def _inside(t_min: float) -> float:
    if not 0 < t_min < 0.5:
        raise ValueError(f"schedule.t_min lies between 0 and 0.5, not {t_min}")
    return t_min
