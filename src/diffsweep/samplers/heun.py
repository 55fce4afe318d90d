r"""Heun's method on the probability-flow ODE, with EDM's churn.

.. math:: x_s = x_t + \tfrac12 (x_0 + x_0') (\alpha_s - \alpha_t)
    + \tfrac12 (\epsilon + \epsilon') (\sigma_s - \sigma_t)

is its step from t to s < t: the trapezoid rule on :math:`dx = x_0 \, d\alpha + \epsilon \, d\sigma`, with the
denoiser's :math:`x_0, \epsilon` at t and its :math:`x_0', \epsilon'` at s, evaluated where Euler's step ends.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step, expand_to
from diffsweep.samplers.base import Sampler, State, euler_step, euler_step_each
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level, Schedule


@dataclass(kw_only=True, eq=False)
class Heun(Sampler):
    r"""Sample with Heun's method on the probability-flow ODE (EDM, Karras et al. 2022, arXiv:2206.00364, alg. 1 and 2).

    It is the trapezoid rule on ``dx = x0 d alpha + eps d sigma``, of order 2:

    .. math:: x_s = x_t + \tfrac12 (x_0 + x_0') (\alpha_s - \alpha_t)
        + \tfrac12 (\epsilon + \epsilon') (\sigma_s - \sigma_t),

    with the denoiser's :math:`x_0, \epsilon` at t and :math:`x_0', \epsilon'` at s < t, where Euler's step ends. A step
    takes two network calls; the step to clean data is Euler's and takes one. Down to clean data in equal steps of t,
    the order is 2 where sigma is smooth in t (flow, EDM, sub-VP) and 1.5 where sigma grows like the square root of t
    (VP, DDPM's schedules); with ``spacing=quadratic`` or ``karras`` it is 2 for these too.

    Churn adds noise before a step from :math:`r = \sigma_t / \alpha_t` with ``s_min`` <= r <= ``s_max`` and alpha_t
    above 0. It raises the noise level to :math:`\hat r = (1 + \gamma) r`, :math:`\gamma = \min(s_{churn} / steps, \sqrt
    2 - 1)`, by :math:`\hat x = \hat\alpha (x / \alpha_t + \sqrt{\hat r^2 - r^2} \, z)`. The callback then gets the
    denoiser's estimate at :math:`\hat x`. EDM's :math:`S_{noise}` is the option ``temperature``.

    Intended differences from the public codes (EDM, k-diffusion, diffusers). For alpha = 1 the method equals theirs.
    For other alpha they use the trapezoid rule in :math:`r = \sigma / \alpha`, which is infinite where alpha is 0; this
    class can start at alpha = 0, and is of order 2 as well. With ``public_form`` it uses their rule,

    .. math:: x_s = \alpha_s \Big(\frac{x_t}{\alpha_t} + \tfrac12 (\epsilon + \epsilon') (r_s - r_t)\Big),

    and Euler's step from alpha = 0. The time of a raised noise level is the one at which the schedule has that log-SNR.
    Churn does not exceed the noise level of t = 1, where EDM evaluates the network above sigma_max.

    Args:
        s_churn: the amount of noise that is added over all steps, at least 0; 0 is deterministic.
        s_min, s_max: the range of sigma / alpha, both ends included, in which noise is added.
        public_form: use the trapezoid rule in sigma / alpha, as the public codes do.

    Raises:
        ValueError: an option is out of its range, or s_min or s_max is set without churn.
    """

    steps: int = 25
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    public_form: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.s_churn < math.inf:
            raise ValueError(f"sampler.s_churn is at least 0 and finite, not {self.s_churn}")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"churn needs 0 <= sampler.s_min <= sampler.s_max, not {self.s_min} and {self.s_max}")
        if self.s_churn == 0 and (self.s_min > 0 or self.s_max < math.inf):
            raise ValueError(
                "sampler.s_min and sampler.s_max have nothing to act on without churn; set sampler.s_churn above 0"
            )
        self.order = 2 if self.s_churn == 0 else None
        super().__post_init__()

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        x, at_t = self._churned(denoise.schedule, x, step.at_t, noise)
        denoised, at_s = denoise(x, at_t), step.at_s
        x = euler_step(denoised, at_s.alpha, at_s.sigma)
        if at_s.sigma > 0 and self.public_form:
            if at_t.alpha > 0:
                d_eps = denoise(x, at_s).eps - denoised.eps
                x.add_(d_eps, alpha=0.5 * at_s.alpha * (at_s.ratio - at_t.ratio))
        elif at_s.sigma > 0:
            x = trapezoid(x, denoised, denoise(x, at_s), at_s.alpha - at_t.alpha, at_s.sigma - at_t.sigma)
        return x, State(denoised)

    def advance_each(self, denoiser: Denoiser, x: Tensor, step: Step[Tensor], cond: Condition | None) -> Tensor:
        if self.public_form or self.clip != "none":  # at clean data a clipped x0 has no eps
            return super().advance_each(denoiser, x, step, cond)
        denoise = ConditionedDenoiser(denoiser, cond)
        first = denoise.each(x, step.at_t)
        euler = euler_step_each(first, step.at_s)
        second = denoise.each(euler, step.at_s)
        d_alpha, d_sigma = ((low - high).to(x) for high, low in zip(step.at_t[1:], step.at_s[1:], strict=True))
        change = expand_to(d_alpha, x) * (second.x0 - first.x0) + expand_to(d_sigma, x) * (second.eps - first.eps)
        return torch.where(expand_to(step.at_s.sigma, x) > 0, euler + 0.5 * change, euler)

    def _churned(self, schedule: Schedule, x: Tensor, at_t: Level[float], noise: Noise) -> tuple[Tensor, Level[float]]:
        """Return x with the noise of churn added, and its new level; both unchanged for a step without churn."""
        if self.s_churn == 0 or at_t.alpha == 0 or not self.s_min <= at_t.ratio <= self.s_max:
            return x, at_t
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        raised = schedule.at_log_snr(-2 * math.log(at_t.ratio * (1 + gamma)))
        if raised.alpha == 0 or raised.ratio <= at_t.ratio:  # t = 1 has no noise above it
            return x, at_t
        added = raised.alpha * math.sqrt(raised.ratio**2 - at_t.ratio**2)
        return torch.add(x * (raised.alpha / at_t.alpha), noise.like(x), alpha=added), raised


def trapezoid(euler: Tensor, first: Denoised, second: Denoised, d_alpha: float, d_sigma: float) -> Tensor:
    """Return the end of a step by the trapezoid rule, computed in place from the end of Euler's step.

    Args:
        euler: x at the end of Euler's step, (B, ...); it is overwritten with the result.
        first, second: the denoiser's estimates at the beginning and at the end of Euler's step.
        d_alpha, d_sigma: the changes of alpha and sigma over the step.
    """
    return euler.add_(second.x0 - first.x0, alpha=d_alpha / 2).add_(second.eps - first.eps, alpha=d_sigma / 2)
