"""Euler and Maruyama's method on the reverse SDE."""

import math

from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State, euler_step


class EulerMaruyama(Sampler):
    r"""Euler and Maruyama's method on the reverse SDE (Song et al. 2021, arXiv:2011.13456, eq. 6): the sampling ODE, the score's other half
    and noise,

    .. math:: dx = x_0 \, d\alpha + \epsilon \, d\sigma - \tfrac12 \frac{\epsilon}{\sigma} dG + dW, \quad
        x_s = \alpha_s x_0 + \Big(\sigma_s - \frac{v_{ts}}{2 \sigma_t}\Big) \epsilon + \sqrt{v_{ts}} \, z,

    where W has the variance G that the forward process adds, :math:`v_{ts}` over a step. The step to clean data gives x_0, without noise.

    Differences from score_sde's code, kept on purpose: it takes the rates beta(t) or d sigma^2 / dt at the step's start times dt, which
    are infinite where no signal is left; here they are the increments of alpha, sigma and G over the step, the same to first order and finite on any schedule.

    Args:
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`; hundreds of steps are usual.
    """

    def __init__(
        self,
        steps: int = 500,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
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
        denoised = self.denoise(denoiser, x, t, pair, cond)
        if pair.sigma_s == 0:
            return euler_step(denoised, pair.alpha_s, 0.0), State(denoised)
        x = euler_step(denoised, pair.alpha_s, pair.sigma_s - pair.var_ts / (2 * pair.sigma_t))
        return x.add_(noise.like(x), alpha=math.sqrt(pair.var_ts)), State(denoised)
