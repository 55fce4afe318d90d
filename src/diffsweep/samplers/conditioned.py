r"""The denoiser that a sampler evaluates: bound to its condition, with x0 clipped to the data's range.

From :math:`x = \alpha x_0 + \sigma \epsilon` follows the eps of a clipped x0:
:math:`\epsilon = (x - \alpha \, \mathrm{clip}(x_0)) / \sigma`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, expand_to, velocity
from diffsweep.diffusion.probability_flow import log_snr_of
from diffsweep.schedules import Level, Schedule

Clip = Literal["none", "static", "dynamic"]


def _static(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def _dynamic(x0: Tensor) -> Tensor:
    scale = torch.quantile(x0.flatten(1).abs().float(), 0.995, dim=1).clamp(min=1).to(x0)
    scale = expand_to(scale, x0)
    return torch.maximum(torch.minimum(x0, scale), -scale) / scale


CLIPS: dict[str, Callable[[Tensor], Tensor] | None] = {"none": None, "static": _static, "dynamic": _dynamic}


class ConditionedDenoiser:
    """A denoiser that a sampler evaluates as ``denoise(x, level)``: with a fixed condition, and with its x0 clipped.

    ``level`` is a time with its alpha and sigma; the result has x0 and eps. Guidance wraps the denoiser, so the
    clipping (static or dynamic thresholding) acts on the guided x0. Samplers clip here and nowhere else; guidance has
    no thresholding of its own.

    Args:
        denoiser: any denoiser, guided or not.
        cond: the condition of each sample.
        clip: how x0 is held in [-1, 1]: ``none``, ``static`` or ``dynamic``, as in
            :class:`~diffsweep.samplers.options.WalkOptions`.
    """

    def __init__(self, denoiser: Denoiser, cond: Condition | None = None, clip: Clip = "none") -> None:
        self.denoiser, self.cond, self.clip = denoiser, cond, CLIPS[clip]

    @property
    def schedule(self) -> Schedule:
        """Return the denoiser's schedule, with which solvers find noise levels between the two ends of a step."""
        return self.denoiser.schedule

    def __call__(self, x: Tensor, level: Level[float]) -> Denoised:
        """Return the clipped x0, and the eps with which ``x = alpha x0 + sigma eps`` still holds, both like x.

        Args:
            x: noisy samples at the level, (B, ...).
            level: the time, with alpha and sigma at that time.
        """
        denoised = self.denoiser(x, level.t, self.cond)
        if self.clip is None:
            return denoised
        x0 = self.clip(denoised.x0)
        return Denoised(x0, torch.add(x, x0, alpha=-level.alpha).div_(level.sigma), denoised.variance_mix)

    def each(self, x: Tensor, level: Level[Tensor]) -> Denoised:
        """Return what a call returns, for samples that each have a noise level of their own.

        Args:
            x: noisy samples, (B, ...).
            level: the times with alpha and sigma, each (B,).
        """
        denoised = self.denoiser(x, level.t.to(x), self.cond)
        if self.clip is None:
            return denoised
        x0 = self.clip(denoised.x0)
        alpha, sigma = (expand_to(value.to(x), x) for value in level[1:])
        return Denoised(x0, (x - alpha * x0) / sigma, denoised.variance_mix)

    def velocity(self, u: Tensor, angle: float) -> Tensor:
        r"""Return :math:`du / d\phi = \cos\phi \, \epsilon - \sin\phi \, x_0`, the slope of the ODE, like ``u``.

        This is the right-hand side of the probability-flow ODE in the angle :math:`\phi = \mathrm{atan2}(\sigma,
        \alpha)`, with the denoiser's estimates at the time at which the schedule has that angle.

        Args:
            u: :math:`x / \sqrt{\alpha^2 + \sigma^2}`, (B, ...).
            angle: :math:`\phi`, above 0.
        """
        level = self.schedule.at_log_snr(log_snr_of(angle))
        return velocity(self(u * level.norm, level), angle)
