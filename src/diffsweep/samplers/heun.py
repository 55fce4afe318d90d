"""Heun's method on the sampling ODE, with EDM's churn."""

import math

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State, euler_step
from diffsweep.schedules import Located, Schedule


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
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`; EDM's own spacing is ``karras``.
    """

    def __init__(
        self,
        s_churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        steps: int = 25,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        if not 0 <= s_churn < math.inf:
            raise ValueError(f"sampler.s_churn is at least 0 and finite, not {s_churn}")
        if not 0 <= s_min <= s_max:
            raise ValueError(f"churn needs 0 <= sampler.s_min <= sampler.s_max, not {s_min} and {s_max}")
        if s_churn == 0 and (s_min > 0 or s_max < math.inf):
            raise ValueError(
                "sampler.s_min and sampler.s_max have nothing to act on: there is no churn; set sampler.s_churn above 0"
            )
        self.s_churn, self.s_min, self.s_max = s_churn, s_min, s_max
        self.order = 2 if s_churn == 0 else None
        super().__init__(steps, spacing, start, stop, clip, temperature)

    def advance(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        pair: Step[float],
        state: State | None,
        noise: Noise,
        cond: Condition | None,
    ) -> tuple[Tensor, State]:
        x, at = self._churned(denoiser.schedule, x, Located(t, pair.alpha_t, pair.sigma_t), noise)
        denoised = self.denoise_at(denoiser, x, at, cond)
        moved = euler_step(denoised, pair.alpha_s, pair.sigma_s)
        if pair.sigma_s > 0:
            s = denoiser.schedule.at_log_snr(2 * math.log(pair.alpha_s / pair.sigma_s))
            there = self.denoise_at(denoiser, moved, s, cond)
            moved = trapezoid(moved, denoised, there, pair.alpha_s - at.alpha, pair.sigma_s - at.sigma)
        return moved, State(denoised)

    def _churned(self, schedule: Schedule, x: Tensor, at: Located, noise: Noise) -> tuple[Tensor, Located]:
        """x with more noise, and where it is then; as they are where there is no churn."""
        if self.s_churn == 0 or at.alpha == 0:
            return x, at
        ratio = at.sigma / at.alpha
        if not self.s_min <= ratio <= self.s_max:
            return x, at
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        raised = schedule.at_log_snr(-2 * math.log(ratio * (1 + gamma)))
        if raised.alpha == 0 or raised.sigma / raised.alpha <= ratio:  # t = 1 has no noise above it
            return x, at
        added = raised.alpha * math.sqrt((raised.sigma / raised.alpha) ** 2 - ratio**2)
        return torch.add(x * (raised.alpha / at.alpha), noise.like(x), alpha=added), raised


def trapezoid(moved: Tensor, here: Denoised, there: Denoised, d_alpha: float, d_sigma: float) -> Tensor:
    """``moved``, where Euler's step arrives, plus half of what the slope changes on the way; in place."""
    return moved.add_(there.x0 - here.x0, alpha=d_alpha / 2).add_(there.eps - here.eps, alpha=d_sigma / 2)
