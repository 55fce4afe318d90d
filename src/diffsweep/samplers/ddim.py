"""DDIM: the deterministic walk, and the family between it and the ancestral one."""

import math

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoiser, Noise, Step
from diffsweep.samplers.base import Callback, Clip, Sampler, Spacing, State, Watch, euler_step, steps_of


class DDIM(Sampler):
    r""":math:`x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - v} \, \epsilon + \sqrt v z`, :math:`v = \eta^2 v_{post}` (Song et al. 2021, arXiv:2010.02502, eq. 12, 16).

    With eta = 0 it is Euler's method on the probability-flow ODE ``dx = x0 d alpha + eps d sigma``, of order 1; with
    eta = 1 it is the ancestral step with the posterior's variance.

    With eta = 0 it can be walked backwards, from data to their noise: :meth:`invert`.

    Args:
        eta: in [0, 1], the share of the posterior's standard deviation that is drawn anew.
        steps, spacing, start, stop, clip, temperature: see :class:`~diffsweep.samplers.base.Sampler`.
    """

    def __init__(
        self,
        eta: float = 0.0,
        steps: int = 50,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta lies between 0 and 1, not {eta}")
        self.eta = eta
        self.order = 1 if eta == 0 else None
        super().__init__(steps, spacing, start, stop, clip, temperature)

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
            x = x.add_(noise.like(x), alpha=math.sqrt(variance))
        return x, State(denoised)

    @property
    def invertible(self) -> bool:
        return self.eta == 0

    @torch.no_grad()
    def invert(
        self, denoiser: Denoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        r"""The x at t = start whose walk ends near ``x``: the same times upwards, :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with what the
        denoiser says at the step's *lower* end (arXiv:2010.02502, section 5.4; arXiv:2105.05233, app. F).

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
        schedule, times = denoiser.schedule, self.times(denoiser.schedule)
        lowest = torch.tensor(schedule.t_min, dtype=torch.float64)
        watch = Watch(up := times.flip(0), pairs := steps_of(schedule, times)[::-1])
        for i, (s, pair) in enumerate(zip(up[:-1], pairs, strict=True)):
            at = torch.maximum(s, lowest) if pair.sigma_s == 0 else s
            denoised = denoiser(x, at, cond)
            x = euler_step(denoised, pair.alpha_t, pair.sigma_t)
            watch(x)
            if callback is not None:
                callback(i, at, denoised, x)
        return x
