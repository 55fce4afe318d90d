"""Heun's method on the sampling ODE, with EDM's churn."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.diffusion import Denoised, Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.schedules import Level, Schedule


@dataclass(kw_only=True, eq=False)
class Heun(Sampler):
    r"""The trapezoid rule on the ODE ``dx = x0 d alpha + eps d sigma`` (EDM, Karras et al. 2022, arXiv:2206.00364, alg. 1 and 2), of order 2:

    .. math:: x_s = x_t + \tfrac12 (x_0 + x_0') (\alpha_s - \alpha_t) + \tfrac12 (\epsilon + \epsilon') (\sigma_s - \sigma_t),

    with :math:`x_0', \epsilon'` at s, where Euler's step arrives. Two network calls a step; the step to clean data is Euler's, of one.
    Down to clean data in equal steps of t it is of order 2 where sigma is smooth in t (flow, EDM, sub-VP); where sigma grows like the root of t
    (VP, DDPM's schedules) of 1.5, and of order 2 with ``spacing=quadratic`` or ``karras``.

    Before a step from :math:`r = \sigma_t / \alpha_t` with ``s_min`` <= r <= ``s_max``, churn raises the noise to
    :math:`\hat r = (1 + \gamma) r`, :math:`\gamma = \min(s_{churn} / steps, \sqrt 2 - 1)`:
    :math:`\hat x = \hat\alpha (x / \alpha_t + \sqrt{\hat r^2 - r^2} \, z)`.
    EDM's :math:`S_{noise}` is ``temperature``. What the callback sees of the denoiser is then what it said of :math:`\hat x`.

    Differences from the public codes (EDM, k-diffusion, diffusers), kept on purpose. It is theirs for alpha = 1; elsewhere they take
    the trapezoid in :math:`\sigma / \alpha`, which is infinite where no signal is left, while this one starts from there, and is of
    order 2 as well. The time at s is that of its log-SNR. Churn does not go beyond the noise of t = 1: there EDM asks the network about more than
    sigma_max.

    Args:
        s_churn: how much noise is added over the walk, at least 0; 0 is deterministic.
        s_min, s_max: the range of sigma / alpha with churn.
    """

    steps: int = 25
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.s_churn < math.inf:
            raise ValueError(f"sampler.s_churn is at least 0 and finite, not {self.s_churn}")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"churn needs 0 <= sampler.s_min <= sampler.s_max, not {self.s_min} and {self.s_max}")
        if self.s_churn == 0 and (self.s_min > 0 or self.s_max < math.inf):
            raise ValueError(
                "sampler.s_min and sampler.s_max have nothing to act on: there is no churn; set sampler.s_churn above 0"
            )
        self.order = 2 if self.s_churn == 0 else None
        super().__post_init__()

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        x, at_t = self._churned(denoise.schedule, x, step.at_t, noise)
        denoised, at_s = denoise(x, at_t), step.at_s
        x = euler_step(denoised, at_s.alpha, at_s.sigma)
        if at_s.sigma > 0:
            x = trapezoid(x, denoised, denoise(x, at_s), at_s.alpha - at_t.alpha, at_s.sigma - at_t.sigma)
        return x, State(denoised)

    def _churned(self, schedule: Schedule, x: Tensor, at_t: Level[float], noise: Noise) -> tuple[Tensor, Level[float]]:
        """Return x with more noise, and its level then; both as they are where there is no churn."""
        if self.s_churn == 0 or at_t.alpha == 0 or not self.s_min <= at_t.ratio <= self.s_max:
            return x, at_t
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        raised = schedule.at_log_snr(-2 * math.log(at_t.ratio * (1 + gamma)))
        if raised.alpha == 0 or raised.ratio <= at_t.ratio:  # t = 1 has no noise above it
            return x, at_t
        added = raised.alpha * math.sqrt(raised.ratio**2 - at_t.ratio**2)
        return torch.add(x * (raised.alpha / at_t.alpha), noise.like(x), alpha=added), raised


def trapezoid(moved: Tensor, at_t: Denoised, at_s: Denoised, d_alpha: float, d_sigma: float) -> Tensor:
    """``moved``, where Euler's step arrives, plus half of what the slope changes on the way; in place."""
    return moved.add_(at_s.x0 - at_t.x0, alpha=d_alpha / 2).add_(at_s.eps - at_t.eps, alpha=d_sigma / 2)
