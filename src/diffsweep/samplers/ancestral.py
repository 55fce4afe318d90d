"""Ancestral sampling: DDPM's reverse chain, full or strided."""

import math

from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step
from diffsweep.samplers.base import Sampler, State, euler_step


class Ancestral(Sampler):
    r"""Draws :math:`x_s \sim N(\mu(x_0, x_t), v)` with the posterior's mean for the predicted x_0 (DDPM, arXiv:2006.11239, alg. 2).

    :math:`\log v` lies between the posterior's variance and the forward step's at the denoiser's ``variance_mix``, for any
    pair of times: a stride of several steps is as exact as one. The step to clean data adds no noise.
    """

    uses_variance = True

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
        towards_eps = math.sqrt(max(0.0, pair.sigma_s**2 - pair.var_post))
        x = euler_step(denoised, pair.alpha_s, towards_eps)
        if pair.sigma_s > 0:
            log_small, log_large = math.log(pair.var_post), math.log(pair.var_ts)
            log_variance = log_small + (log_large - log_small) * denoised.variance_mix
            z = noise.like(x)
            if isinstance(log_variance, Tensor):
                x.addcmul_((log_variance / 2).exp(), z)
            else:
                x.add_(z, alpha=math.exp(log_variance / 2))
        return x, State(denoised)
