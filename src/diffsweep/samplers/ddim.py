"""DDIM: the deterministic walk, the family between it and the ancestral one, and their other published names."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Noise, PlainDenoiser, Step, as_denoiser, in_numbers, steps_of
from diffsweep.samplers.base import Callback, Sampler, State, euler_step
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.watch import Watch


@dataclass(kw_only=True, eq=False)
class DDIM(Sampler):
    r""":math:`x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - v} \, \epsilon + \sqrt v z`, :math:`v = \eta^2 v_{post}` (Song et al. 2021, arXiv:2010.02502, eq. 12, 16).

    With eta = 0 it is Euler's method on the probability-flow ODE ``dx = x0 d alpha + eps d sigma``, of order 1; with
    eta = 1 it is the ancestral step with the posterior's variance.

    With eta = 0 it can be walked backwards, from data to their noise: :meth:`invert`.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta lies between 0 and 1, not {self.eta}")
        self.order = 1 if self.eta == 0 else None
        super().__post_init__()

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_s, variance = denoise(x, step.at_t), step.at_s, self.eta**2 * step.var_post
        x = euler_step(denoised, at_s.alpha, math.sqrt(max(0.0, at_s.sigma**2 - variance)))
        if variance > 0:
            x.add_(noise.like(x), alpha=math.sqrt(variance))
        return x, State(denoised)

    @property
    def invertible(self) -> bool:
        return self.eta == 0

    @torch.no_grad()
    def invert(
        self, denoiser: PlainDenoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        r"""Return the x at t = start whose walk ends near ``x``: the same times upwards, :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with what
        the denoiser says at the step's *lower* end (arXiv:2010.02502, section 5.4; arXiv:2105.05233, app. F).

        Walked down again it gives x back to first order in the steps: Euler's method on the same ODE in both directions. It does not
        clip: eps could not follow where sigma is 0. From clean data the step begins at ``schedule.t_min``, the lowest time that the
        denoiser knows.

        Args:
            denoiser: as in a walk.
            x: (B, ...), at t = stop.
            cond: condition of each sample.
            callback: called after each step as in a walk, with the time that the denoiser was asked at.

        Raises:
            ValueError: eta is above 0, and what a step drew cannot be known.
        """
        if not self.invertible:
            raise ValueError(f"only a deterministic walk can be inverted; use sampler.eta=0, not {self.eta}")
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond)
        steps = in_numbers(steps_of(denoise.schedule, self.times(denoise.schedule)))
        ways = [(step.at_s, step.at_t) for step in reversed(steps)]
        lowest, watch = denoise.schedule.at(torch.tensor(denoise.schedule.t_min, dtype=torch.float64)), Watch(ways)
        for i, (low, high) in enumerate(ways):
            begin = lowest if low.sigma == 0 else low
            denoised = denoise(x, begin)
            x = euler_step(denoised, high.alpha, high.sigma)
            watch(x)
            if callback is not None:
                callback(i, begin.t, denoised, x)
        return x


@dataclass(kw_only=True, eq=False)
class Euler(DDIM):
    r""":math:`x_s = x_t + x_0 (\alpha_s - \alpha_t) + \epsilon (\sigma_s - \sigma_t) = \alpha_s x_0 + \sigma_s \epsilon` (EDM, arXiv:2206.00364, alg. 1 without
    its correction; k-diffusion's ``sample_euler``).

    It is Euler's method in :math:`\sigma / \alpha` too, for any alpha, and so the very walk of
    :class:`~diffsweep.samplers.DDIM` with eta = 0: two published names of one solver. As in k-diffusion and diffusers the final
    step goes to sigma = 0. Their option to add noise (churn) is kept to :class:`~diffsweep.samplers.Heun`.
    """

    eta: float = field(default=0.0, init=False)


@dataclass(kw_only=True, eq=False)
class EulerAncestral(DDIM):
    r"""Euler's step down to less noise than s has, and new noise up to s (k-diffusion's ``sample_euler_ancestral``). With :math:`r = \sigma / \alpha`:

    .. math:: x_s = \alpha_s (x_0 + r_{down} \epsilon + r_{up} z), \quad
        r_{up} = \eta \, \frac{r_s}{r_t} \sqrt{r_t^2 - r_s^2}, \quad r_{down} = \sqrt{r_s^2 - r_{up}^2}.

    :math:`\alpha_s r_{up}` is eta times the posterior's standard deviation, so this is the walk of
    :class:`~diffsweep.samplers.DDIM` of the same eta (arXiv:2010.02502, eq. 16): eta = 1 is DDPM's step with the small variance, eta = 0 Euler's.
    Kept on purpose: k-diffusion takes any eta and caps :math:`r_{up}` at :math:`r_s`; here eta is at most 1. Its s_noise is our ``temperature``.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew; 0 is deterministic.
    """

    eta: float = 1.0
