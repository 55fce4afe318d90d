r"""Ancestral sampling, the reverse chain of DDPM.

.. math:: x_s = \mu + \sqrt v \, z, \quad
    \mu = \alpha_{ts} \frac{\sigma_s^2}{\sigma_t^2} x_t + \alpha_s \frac{v_{ts}}{\sigma_t^2} x_0
    = \alpha_s x_0 + \sqrt{\sigma_s^2 - v_{post}} \, \epsilon

is the step from t to s < t, with :math:`\alpha_{ts} = \alpha_t / \alpha_s`, the variance
:math:`v_{ts} = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2` of the forward step, the variance
:math:`v_{post} = v_{ts} \sigma_s^2 / \sigma_t^2` of :math:`q(x_s | x_t, x_0)`, and standard normal z.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser


@dataclass(kw_only=True, eq=False)
class Ancestral(Sampler):
    r"""Sample each :math:`x_s` from the Gaussian posterior of the predicted x_0 (DDPM, arXiv:2006.11239, alg. 2).

    A step from t to s < t draws :math:`x_s \sim N(\mu(x_t, x_0), v)`, where :math:`\mu` is the mean of
    :math:`q(x_s | x_t, x_0)` at the denoiser's x_0. The denoiser's ``variance_mix`` in [0, 1] interpolates the
    logarithm of v from the variance :math:`v_{post}` of :math:`q(x_s | x_t, x_0)`, at 0, to the variance
    :math:`v_{ts}` of the forward step from s to t, at 1: :math:`\log v = (1 - mix) \log v_{post} + mix \log v_{ts}`.
    The formulas hold for any pair of times, so a step may skip times of a discrete schedule. The step to clean data
    adds no noise.
    """

    uses_variance = True

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_s = denoise(x, step.at_t), step.at_s
        x = euler_step(denoised, at_s.alpha, math.sqrt(max(0.0, at_s.sigma**2 - step.var_post)))
        if at_s.sigma > 0:
            log_small, log_large = math.log(step.var_post), math.log(step.var_ts)
            log_variance = log_small + (log_large - log_small) * denoised.variance_mix
            z = noise.like(x)
            if isinstance(log_variance, Tensor):
                x.addcmul_((log_variance / 2).exp(), z)
            else:
                x.add_(z, alpha=math.exp(log_variance / 2))
        return x, State(denoised)
