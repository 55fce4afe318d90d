"""Euler and Maruyama's method on the reverse SDE."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser


@dataclass(kw_only=True, eq=False)
class EulerMaruyama(Sampler):
    r"""Euler and Maruyama's method on the reverse SDE (Song et al. 2021, arXiv:2011.13456, eq. 6): the sampling ODE, the score's other half
    and noise,

    .. math:: dx = x_0 \, d\alpha + \epsilon \, d\sigma - \tfrac12 \frac{\epsilon}{\sigma} dG + dW, \quad
        x_s = \alpha_s x_0 + \Big(\sigma_s - \frac{v_{ts}}{2 \sigma_t}\Big) \epsilon + \sqrt{v_{ts}} \, z,

    where W has the variance G that the forward process adds, :math:`v_{ts}` over a step. The step to clean data gives x_0, without noise.

    Differences from score_sde's code, kept on purpose: it takes the rates beta(t) or d sigma^2 / dt at the step's start times dt, which
    are infinite where no signal is left; here they are the increments of alpha, sigma and G over the step, the same to first order and finite on any schedule.
    """

    steps: int = 500

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_t, at_s = denoise(x, step.at_t), step.at_t, step.at_s
        if at_s.sigma == 0:
            return euler_step(denoised, at_s.alpha, 0.0), State(denoised)
        x = euler_step(denoised, at_s.alpha, at_s.sigma - step.var_ts / (2 * at_t.sigma))
        return x.add_(noise.like(x), alpha=math.sqrt(step.var_ts)), State(denoised)
