"""Guidance by a weaker version of the model itself."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser


class AutoGuidance(Denoiser):
    r"""Autoguidance of Karras et al. 2024 (arXiv:2406.02507): away from what a weaker model says.

    :math:`D = D_{weak} + s (D_{main} - D_{weak})` for x0, and so for eps and the score, since both models are told the same
    :math:`x_t = \alpha x_0 + \sigma \epsilon`. The weaker model is smaller, or trained for less time, on the same data, condition
    and schedule: it errs where the main model errs, and more. The variance's mix is the main model's.

    Args:
        denoiser: the main model's.
        weak: the weaker model's, or a function that gives that model. It is asked for only where the scale is not 1.
        scale: s, the paper's w; 1 is no guidance: the main model's numbers, bit for bit.
    """

    def __init__(self, denoiser: Denoiser, weak: Denoiser | Callable[[], Any], scale: float = 2.0) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction)
        self.denoiser, self.scale = denoiser, scale
        self.weak: Denoiser | None = None
        if scale != 1:
            self.weak = weak if isinstance(weak, Denoiser) else weak().denoiser.to(_device(denoiser))

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        strong = self.denoiser(x_t, t, cond)  # x0 and eps (B, ...)
        if self.weak is None:
            return strong
        weak = self.weak(x_t, t, cond)
        x0 = weak.x0 + self.scale * (strong.x0 - weak.x0)
        return Denoised(x0, weak.eps + self.scale * (strong.eps - weak.eps), strong.variance_mix)


def _device(module: torch.nn.Module) -> torch.device:
    """Where a module's numbers are."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
