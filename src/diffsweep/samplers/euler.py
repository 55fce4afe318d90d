"""Euler's method on the sampling ODE."""

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State


class Euler(Sampler):
    r""":math:`x_s = x_t + x_0 (\alpha_s - \alpha_t) + \epsilon (\sigma_s - \sigma_t) = \alpha_s x_0 + \sigma_s \epsilon` (EDM, arXiv:2206.00364, alg. 1 without
    its correction; k-diffusion's ``sample_euler``).

    It is Euler's method in :math:`\sigma / \alpha` too, for any alpha, and so the very walk of
    :class:`~diffsweep.samplers.DDIM` with eta = 0: two published names of one solver. As in k-diffusion and diffusers the final
    step goes to sigma = 0. Their option to add noise (churn) is kept to :class:`~diffsweep.samplers.Heun`.

    Args:
        steps, spacing, start, stop, clip: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    order = 1

    def __init__(
        self,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
    ) -> None:
        super().__init__(steps, spacing, start, stop, clip)

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
        return euler_step(denoised, pair.alpha_s, pair.sigma_s), State(denoised)


def euler_step(denoised: Denoised, alpha: float, sigma: float) -> Tensor:
    r"""Where Euler's method arrives at (alpha, sigma): :math:`\alpha x_0 + \sigma \epsilon`, finite at both ends."""
    return (denoised.x0 * alpha).add_(denoised.eps, alpha=sigma)
