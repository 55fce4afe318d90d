r"""The Euler-Maruyama method on the reverse SDE.

.. math:: x_s = \alpha_s x_0 + \Big(\sigma_s - \frac{v_{ts}}{2 \sigma_t}\Big) \epsilon + \sqrt{v_{ts}} \, z

is its step from t to s < t, with the denoiser's :math:`x_0, \epsilon` at t, the variance
:math:`v_{ts} = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2` that the forward process adds from s to t, and standard
normal z.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser


@dataclass(kw_only=True, eq=False)
class EulerMaruyama(Sampler):
    r"""Sample with the Euler-Maruyama method on the reverse SDE (Song et al. 2021, arXiv:2011.13456, eq. 6).

    The reverse SDE is the probability-flow ODE plus a drift of half the score, :math:`-\epsilon / \sigma`, and noise:

    .. math:: dx = x_0 \, d\alpha + \epsilon \, d\sigma - \tfrac12 \frac{\epsilon}{\sigma} dG + dW, \quad
        x_s = \alpha_s x_0 + \Big(\sigma_s - \frac{v_{ts}}{2 \sigma_t}\Big) \epsilon + \sqrt{v_{ts}} \, z,

    where G > 0 is the variance that the forward process adds, :math:`v_{ts}` over a step from t to s < t, W is Brownian
    motion of that variance, and z is standard normal. The denoiser's :math:`x_0, \epsilon` are those at t. The step to
    clean data gives x_0, without noise.

    Intended difference from score_sde's code: the code multiplies dt by the rate beta(t) or d sigma^2 / dt at the start
    of the step, which is infinite where alpha is 0. This class uses the increments of alpha, sigma and G over the step,
    which are equal to first order and finite on any schedule.
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
