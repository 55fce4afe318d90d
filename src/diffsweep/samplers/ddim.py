"""DDIM: the deterministic walk, and the family between it and the ancestral one."""

import math

from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step
from diffsweep.samplers.base import Clip, Sampler, Spacing, State, euler_step


class DDIM(Sampler):
    r""":math:`x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - v} \, \epsilon + \sqrt v z`, :math:`v = \eta^2 v_{post}` (Song et al. 2021, arXiv:2010.02502, eq. 12, 16).

    With eta = 0 it is Euler's method on the probability-flow ODE ``dx = x0 d alpha + eps d sigma``, of order 1; with
    eta = 1 it is the ancestral step with the posterior's variance.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew.
        steps, spacing, start, stop, clip: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    s_noise = 1.0  # the size of the noise that is drawn; its temperature

    def __init__(
        self,
        eta: float = 0.0,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
    ) -> None:
        super().__init__(steps, spacing, start, stop, clip)
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta lies between 0 and 1, not {eta}")
        self.eta = eta
        self.order = 1 if eta == 0 else None

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
        variance = self.eta**2 * pair.var_post
        towards_eps = math.sqrt(max(0.0, pair.sigma_s**2 - variance))
        x = euler_step(denoised, pair.alpha_s, towards_eps)
        if variance > 0:
            x = x.add_(noise.like(x), alpha=self.s_noise * math.sqrt(variance))
        return x, State(denoised)
