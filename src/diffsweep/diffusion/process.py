r"""The Gaussian process between two times, from ``alpha, sigma`` alone (Kingma et al. 2021, arXiv:2107.00630, app. A).

For :math:`s < t`: :math:`x_t = \alpha_{ts} x_s + \sqrt{v_{ts}} z` with :math:`\alpha_{ts} = \alpha_t / \alpha_s` and
:math:`v_{ts} = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2`. One formula serves the full chain, a strided one and any pair.
"""

from typing import Generic

import torch
from torch import Tensor
from typing_extensions import NamedTuple

from diffsweep.schedules import Level, Schedule
from diffsweep.schedules.base import Value


def expand_to(value: Tensor, x: Tensor) -> Tensor:
    """``value`` with further axes, so that it multiplies ``x`` of shape (B, ...), in its dtype.

    Args:
        value: () or (B,); or (B, F), one of each frame of clips, which becomes (B, 1, F, 1, 1).
        x: (B, ...); with a value of each frame (B, C, F, ...), or itself (B, F).
    """
    if value.ndim == 0:
        return value.to(x.dtype)  # a CPU scalar multiplies a tensor of any device without a copy
    value = value.to(x)
    if value.ndim == 2 and x.ndim > 2:
        value = value[:, None]  # before the frames are the channels
    return value.reshape(*value.shape, *[1] * (x.ndim - value.ndim))


def factor(value: Tensor, x: Tensor) -> Tensor | float:
    """As :func:`expand_to`, but a number where ``value`` is one on the CPU: a walk has one time for the batch, and a number
    multiplies a tensor of any device without tiny tensors of its own."""
    return value.item() if value.ndim == 0 and value.device.type == "cpu" else expand_to(value, x)


def add_noise(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    r""":math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`; x_0, eps (B, ...), t () or (B,), of clips (B, C, F, H, W) also (B, F)."""
    alpha, sigma = schedule(t)
    return expand_to(alpha, x_0) * x_0 + expand_to(sigma, x_0) * eps


def mean_at(values: Tensor, t: Tensor) -> Tensor:
    """The mean of all numbers of ``values`` (B, ...) that have a time in common: (B,) for ``t`` of () or (B,), and for one of each frame,
    (B, F), that of each frame of (B, C, F, ...)."""
    return values.flatten(1).mean(1) if t.ndim < 2 else values.transpose(1, 2).flatten(2).mean(2)


def mean_of_frames(values: Tensor) -> Tensor:
    """One number a sample, (B,): of (B,) itself, of one of each frame, (B, F), their mean."""
    return values if values.ndim < 2 else values.mean(1)


def prior(schedule: Schedule, noise: Tensor, t: Tensor | None = None) -> Tensor:
    r"""x at t, by default 1, where x_0 is unknown: :math:`\sigma_t \cdot` noise."""
    _, sigma = schedule(torch.ones((), dtype=torch.float64) if t is None else t)
    return expand_to(sigma, noise) * noise


class Step(NamedTuple, Generic[Value]):
    r"""One step, from the level at t to that at s < t: tensors of the shape of the times; within a walk numbers.

    Attributes:
        here: the level at t, where the step begins.
        there: the level at s, where it ends; sigma is 0 where that is clean data.
        var_ts: variance of the forward step, :math:`-\sigma_t^2 \, \mathrm{expm1}(\lambda_t - \lambda_s)`, lambda the log-SNR.
        var_post: variance of its posterior given x_0, :math:`v_{ts} \sigma_s^2 / \sigma_t^2`; 0 where s is clean.
    """

    at_t: Level[Value]
    at_s: Level[Value]
    var_ts: Value
    var_post: Value

    @property
    def alpha_ts(self) -> Value:
        return self.at_t.alpha / self.at_s.alpha

    @property
    def from_x_t(self) -> Value:
        r"""What the posterior's mean takes of x_t, :math:`\alpha_{ts} \sigma_s^2 / \sigma_t^2`."""
        return self.alpha_ts * self.at_s.sigma**2 / self.at_t.sigma**2

    @property
    def from_x_0(self) -> Value:
        r"""What the posterior's mean takes of x_0, :math:`\alpha_s v_{ts} / \sigma_t^2`."""
        return self.at_s.alpha * self.var_ts / self.at_t.sigma**2


def step_between(schedule: Schedule, s: Tensor, t: Tensor, to_clean: Tensor | None = None) -> Step[Tensor]:
    """Return the step from t to s < t (elementwise), float64 for exact tables.

    Args:
        schedule: the schedule.
        s, t: times of the same shape.
        to_clean: bool of the same shape: where true, s is clean data, whatever sigma(s) is. A walk ends with such a step,
            which differs from one to t = 0 where the schedule's sigma(0) is not 0.
    """
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    log_snr_s = schedule.log_snr(s)
    if to_clean is not None:
        alpha_s, sigma_s = alpha_s.masked_fill(to_clean, 1.0), sigma_s.masked_fill(to_clean, 0.0)
        log_snr_s = log_snr_s.masked_fill(to_clean, float("inf"))
    var_ts = -(sigma_t**2) * torch.expm1(schedule.log_snr(t) - log_snr_s)
    at_t, at_s = Level(t, alpha_t, sigma_t), Level(s, alpha_s, sigma_s)
    return Step(at_t, at_s, var_ts, var_ts * sigma_s**2 / sigma_t**2)


def steps_of(schedule: Schedule, times: Tensor) -> Step[Tensor]:
    """Return the steps of a walk over decreasing ``times`` (K + 1,), each value (K,): the last one goes to clean data where
    the walk ends at 0."""
    last = torch.zeros(len(times) - 1, dtype=torch.bool)
    last[-1] = times[-1] == 0
    return step_between(schedule, times[1:], times[:-1], last)


def in_numbers(steps: Step[Tensor]) -> list[Step[float]]:
    """Return several steps, each value (K,), one by one as numbers."""
    at_t, at_s = (
        map(Level, level.t.unbind(), level.alpha.tolist(), level.sigma.tolist()) for level in (steps.at_t, steps.at_s)
    )
    return [Step(*each) for each in zip(at_t, at_s, steps.var_ts.tolist(), steps.var_post.tolist(), strict=True)]


def transition(schedule: Schedule, x_s: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_t given x_s, for s < t."""
    step = step_between(schedule, s, t)
    return expand_to(step.alpha_ts, x_s) * x_s, expand_to(step.var_ts, x_s)


def posterior(schedule: Schedule, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and variance of x_s given x_t and x_0, for s < t (DDPM eq. 7, for any two times):
    mean :math:`= \alpha_{ts} \frac{\sigma_s^2}{\sigma_t^2} x_t + \alpha_s \frac{v_{ts}}{\sigma_t^2} x_0`."""
    step = step_between(schedule, s, t)
    mean = expand_to(step.from_x_t, x_t) * x_t + expand_to(step.from_x_0, x_0) * x_0
    return mean, expand_to(step.var_post, x_t)
