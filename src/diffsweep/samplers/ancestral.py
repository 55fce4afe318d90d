"""Ancestral sampling: DDPM's reverse chain, full or strided."""

from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step, expand_to, factor
from diffsweep.samplers.base import Sampler, State


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
        pair: Step,
        state: State | None,
        noise: Noise,
        cond: Condition | None,
    ) -> tuple[Tensor, State]:
        denoised = self.denoise(denoiser, x, t, pair, cond)
        towards_eps = (pair.sigma_s**2 - pair.var_post).clamp(min=0).sqrt()
        x = factor(pair.alpha_s, x) * denoised.x0 + factor(towards_eps, x) * denoised.eps
        if pair.sigma_s > 0:
            mix = denoised.variance_mix
            log_small, log_large = pair.var_post.log(), pair.var_ts.log()
            if isinstance(mix, Tensor):
                std = ((expand_to(log_small, x) * (1 - mix) + expand_to(log_large, x) * mix) / 2).exp()
            else:
                std = expand_to(((log_small * (1 - mix) + log_large * mix) / 2).exp(), x)
            x = x + std * noise.like(x)
        return x, State(denoised)
