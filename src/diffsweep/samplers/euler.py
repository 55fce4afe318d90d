"""Euler's method on the sampling ODE."""

from diffsweep.samplers.base import Clip, Spacing
from diffsweep.samplers.ddim import DDIM


class Euler(DDIM):
    r""":math:`x_s = x_t + x_0 (\alpha_s - \alpha_t) + \epsilon (\sigma_s - \sigma_t) = \alpha_s x_0 + \sigma_s \epsilon` (EDM, arXiv:2206.00364, alg. 1 without
    its correction; k-diffusion's ``sample_euler``).

    It is Euler's method in :math:`\sigma / \alpha` too, for any alpha, and so the very walk of
    :class:`~diffsweep.samplers.DDIM` with eta = 0: two published names of one solver. As in k-diffusion and diffusers the final
    step goes to sigma = 0. Their option to add noise (churn) is kept to :class:`~diffsweep.samplers.Heun`.

    Args:
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(0.0, steps, spacing, start, stop, clip, temperature)
