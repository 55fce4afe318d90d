"""Ancestral sampling: DDPM's reverse chain, full or strided."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffsweep.diffusion import Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser


@dataclass(kw_only=True, eq=False)
class Ancestral(Sampler):
    r"""Draws :math:`x_s \sim N(\mu(x_0, x_t), v)` with the posterior's mean for the predicted x_0 (DDPM, arXiv:2006.11239, alg. 2).

    :math:`\log v` lies between the posterior's variance and the forward step's at the denoiser's ``variance_mix``, for any
    pair of times: a stride of several steps is as exact as one. The step to clean data adds no noise.
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
