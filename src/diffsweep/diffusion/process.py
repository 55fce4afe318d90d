r"""The Gaussian process :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` between any two times s < t.

A forward step, and the posterior of x_s once x_0 is known, follow from alpha and sigma at s and t alone (Kingma et
al. 2021, arXiv:2107.00630, app. A):

.. math:: x_t = \alpha_{ts} x_s + \sqrt{v_{ts}} \, z, \qquad \alpha_{ts} = \alpha_t / \alpha_s, \quad
    v_{ts} = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2, \quad z \sim N(0, I),

.. math:: q(x_s | x_t, x_0) = N\left(\alpha_{ts} \frac{\sigma_s^2}{\sigma_t^2} x_t
    + \alpha_s \frac{v_{ts}}{\sigma_t^2} x_0, \; v_{ts} \frac{\sigma_s^2}{\sigma_t^2} I\right).

The same formulas serve the T steps of DDPM, steps of a larger stride and any other pair of times.
"""

from typing import Generic

import torch
from torch import Tensor
from typing_extensions import NamedTuple

from diffsweep.schedules import Level, Schedule
from diffsweep.schedules.base import Value


def expand_to(value: Tensor, x: Tensor) -> Tensor:
    """Return ``value`` with axes added, so that it multiplies ``x`` of shape (B, ...), in the dtype of x.

    Args:
        value: () or (B,); or (B, F), one for each frame of clips, which becomes (B, 1, F, 1, 1).
        x: (B, ...); where each frame has its value, (B, C, F, ...) or (B, F).
    """
    if value.ndim == 0:
        return value.to(x.dtype)  # a CPU scalar multiplies a tensor of any device without a copy
    value = value.to(x)
    if value.ndim == 2 and x.ndim > 2:
        value = value[:, None]  # before the frames are the channels
    return value.reshape(*value.shape, *[1] * (x.ndim - value.ndim))


def factor(value: Tensor, x: Tensor) -> Tensor | float:
    """Return :func:`expand_to` of a value, or a Python number if the value is a scalar on the CPU.

    The result multiplies ``x``. A sampler has one time for the whole batch, and a number multiplies a tensor on any
    device without small tensors of its own.

    Args:
        value: (), (B,) or (B, F), see :func:`expand_to`.
        x: the tensor to multiply, (B, ...).
    """
    return value.item() if value.ndim == 0 and value.device.type == "cpu" else expand_to(value, x)


def add_noise(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    r"""Return noisy samples :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, like x_0.

    Args:
        schedule: alpha_t and sigma_t.
        x_0: clean samples, (B, ...).
        t: times, () or (B,); for clips (B, C, F, H, W) also (B, F), a time for each frame.
        eps: standard normal noise, like x_0.
    """
    alpha, sigma = schedule(t)
    return expand_to(alpha, x_0) * x_0 + expand_to(sigma, x_0) * eps


def mean_at(values: Tensor, t: Tensor) -> Tensor:
    """Return the mean of ``values`` (B, ...) over all numbers that have a time in common.

    Returns:
        for ``t`` of shape () or (B,) the mean of each sample, (B,); for ``t`` of shape (B, F) the mean of each frame
            of values (B, C, F, ...), (B, F).
    """
    return values.flatten(1).mean(1) if t.ndim < 2 else values.transpose(1, 2).flatten(2).mean(2)


def mean_of_frames(values: Tensor) -> Tensor:
    """Return one value for each sample, (B,): values (B,) as they are, or the mean over frames of values (B, F)."""
    return values if values.ndim < 2 else values.mean(1)


def prior(schedule: Schedule, noise: Tensor, t: Tensor | None = None) -> Tensor:
    r"""Return the x_t that sampling starts from, :math:`\sigma_t \epsilon`, like noise: nothing of x_0 is known yet.

    Args:
        schedule: the noise schedule, of which sigma_t counts.
        noise: eps, standard normal, (B, ...).
        t: the time to start at, () or (B,); 1 by default.
    """
    _, sigma = schedule(torch.ones((), dtype=torch.float64) if t is None else t)
    return expand_to(sigma, noise) * noise


class Step(NamedTuple, Generic[Value]):
    r"""A step of the process from the noise level at t to a lower one at s < t, with the variances between them.

    Values are tensors of the shape of the times. During sampling, where the batch has one time, they are Python
    numbers, since an operation on a tiny tensor takes far longer than its arithmetic.

    Attributes:
        at_t: the level at t, where the step begins.
        at_s: the level at s, where it ends; its sigma is 0 if the step ends at clean data.
        var_ts: the variance :math:`v_{ts}` of the forward step from s to t,
            :math:`-\sigma_t^2 \, \mathrm{expm1}(\lambda_t - \lambda_s)` with :math:`\lambda` the log-SNR.
        var_post: the variance of x_s given x_t and x_0, :math:`v_{ts} \sigma_s^2 / \sigma_t^2`; 0 if the step ends at
            clean data.
    """

    at_t: Level[Value]
    at_s: Level[Value]
    var_ts: Value
    var_post: Value

    @property
    def alpha_ts(self) -> Value:
        r"""Return :math:`\alpha_t / \alpha_s`, the factor of x_s in x_t."""
        return self.at_t.alpha / self.at_s.alpha

    @property
    def from_x_t(self) -> Value:
        r"""Return the coefficient of x_t in the posterior mean of x_s, :math:`\alpha_{ts} \sigma_s^2 / \sigma_t^2`."""
        return self.alpha_ts * self.at_s.sigma**2 / self.at_t.sigma**2

    @property
    def from_x_0(self) -> Value:
        r"""Return the coefficient of x_0 in the posterior mean of x_s, :math:`\alpha_s v_{ts} / \sigma_t^2`."""
        return self.at_s.alpha * self.var_ts / self.at_t.sigma**2


def step_between(schedule: Schedule, s: Tensor, t: Tensor, to_clean: Tensor | None = None) -> Step[Tensor]:
    """Return the step from times t to times s < t, elementwise; each value has the shape of the times.

    float64 times give the values of a discrete schedule's table exactly.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        s, t: times of the same shape.
        to_clean: bool, of the same shape; where true, the step ends at clean data (alpha 1, sigma 0), whatever sigma(s)
            is. A trajectory ends with such a step; it differs from a step to t = 0 if the schedule's sigma(0) is not 0.
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
    """Return the steps between neighbouring times of a trajectory as one :class:`Step`, whose values are (K,).

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        times: decreasing, (K + 1,); if the last one is 0, the last step ends at clean data.
    """
    last = torch.zeros(len(times) - 1, dtype=torch.bool)
    last[-1] = times[-1] == 0
    return step_between(schedule, times[1:], times[:-1], last)


def in_numbers(steps: Step[Tensor]) -> list[Step[float]]:
    """Return K steps, whose values are (K,), as a list of K steps with Python numbers; their times stay tensors, ()."""
    at_t, at_s = (
        map(Level, level.t.unbind(), level.alpha.tolist(), level.sigma.tolist()) for level in (steps.at_t, steps.at_s)
    )
    return [Step(*each) for each in zip(at_t, at_s, steps.var_ts.tolist(), steps.var_post.tolist(), strict=True)]


def transition(schedule: Schedule, x_s: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return mean and variance of x_t given x_s, for times s < t: :math:`\alpha_{ts} x_s` and :math:`v_{ts}`.

    Here :math:`\alpha_{ts} = \alpha_t / \alpha_s` and :math:`v_{ts} = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2`. The mean
    is like x_s, and the variance broadcasts with it.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        x_s: samples at s, (B, ...).
        s, t: times, () or (B,).
    """
    step = step_between(schedule, s, t)
    return expand_to(step.alpha_ts, x_s) * x_s, expand_to(step.var_ts, x_s)


def posterior(schedule: Schedule, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return mean and variance of x_s given x_t and x_0, for any times s < t (DDPM, arXiv:2006.11239, eq. 7).

    The mean is :math:`\alpha_{ts} \frac{\sigma_s^2}{\sigma_t^2} x_t + \alpha_s \frac{v_{ts}}{\sigma_t^2} x_0` and the
    variance :math:`v_{ts} \sigma_s^2 / \sigma_t^2`, with :math:`\alpha_{ts} = \alpha_t / \alpha_s` and
    :math:`v_{ts} = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2`. The mean is like x_0, and the variance broadcasts with it.

    Args:
        schedule: the noise schedule, alpha_t and sigma_t.
        x_0, x_t: clean samples, and the same at t with noise, (B, ...).
        s, t: times, () or (B,).
    """
    step = step_between(schedule, s, t)
    mean = expand_to(step.from_x_t, x_t) * x_t + expand_to(step.from_x_0, x_0) * x_0
    return mean, expand_to(step.var_post, x_t)
