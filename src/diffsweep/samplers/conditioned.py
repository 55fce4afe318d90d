"""What a step sees of a denoiser: its answer under one condition, held in the data's range."""

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
    """A denoiser with its condition and its clip: ``denoised = look(x, at)``.

    Args:
        denoiser: any denoiser; guided or not.
        cond: condition of each sample.
        clip: how x0 is held in the data's range: see :class:`~diffsweep.samplers.options.WalkOptions`.
    """

    def __init__(self, denoiser: Denoiser, cond: Condition | None = None, clip: Clip = "none") -> None:
        self.denoiser, self.cond, self.clip = denoiser, cond, CLIPS[clip]

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule, for levels between those of a step."""
        return self.denoiser.schedule

    def __call__(self, x: Tensor, at: Level[float]) -> Denoised:
        """Return x0, clipped, and the eps with which ``x = alpha x0 + sigma eps`` still holds; x (B, ...)."""
        denoised = self.denoiser(x, at.t, self.cond)
        if self.clip is None:
            return denoised
        x0 = self.clip(denoised.x0)
        return Denoised(x0, torch.add(x, x0, alpha=-at.alpha).div_(at.sigma), denoised.variance_mix)

    def velocity(self, u: Tensor, angle: float) -> Tensor:
        r"""Return :math:`du / d\phi` of :math:`u = x / \sqrt{\alpha^2 + \sigma^2}` at an angle above 0."""
        at = self.schedule.at_log_snr(log_snr_of(angle))
        return velocity(self(u * at.norm, at), angle)
