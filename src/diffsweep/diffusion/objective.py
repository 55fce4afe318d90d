"""Training losses of a denoiser, one number a sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoiser
from diffsweep.diffusion.process import expand_to

_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda output, target: (output - target).square(),
    "l1": lambda output, target: (output - target).abs(),
    "huber": lambda output, target: functional.huber_loss(output, target, reduction="none"),
}


class Objective(ABC):
    """``loss = objective(denoiser, x_0, cond, t, eps)``. Time and noise are drawn outside, so losses compare."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> Tensor:
        """The loss of each sample, (B,); x_0, eps (B, ...), t (B,)."""


class Simple(Objective):
    r"""The distance between output and target, averaged over a sample's numbers: L_simple (DDPM, arXiv:2006.11239, eq. 14).

    Args:
        loss: ``l2`` (squared), ``l1`` or ``huber`` (delta = 1).
    """

    def __init__(self, loss: Literal["l2", "l1", "huber"] = "l2") -> None:
        if loss not in _DISTANCES:
            raise ValueError(f"objective.loss is one of {', '.join(_DISTANCES)}, not {loss}")
        self.distance = _DISTANCES[loss]

    def __call__(self, denoiser: Denoiser, x_0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> Tensor:
        alpha, sigma = (expand_to(value, x_0) for value in denoiser.schedule(t))
        output = denoiser.output(alpha * x_0 + sigma * eps, t, cond)
        return self.distance(output, denoiser.prediction.target(x_0, eps, alpha, sigma)).flatten(1).mean(1)


def sums_by_quarter(values: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts of ``values`` (B,) in the quarters (0, 1/4], (1/4, 1/2], ... of t, each (4,); no device sync."""
    quarter = (torch.ceil(t * 4) - 1).clamp(0, 3).long()
    zeros = torch.zeros(4, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, quarter, values), zeros.index_add(0, quarter, torch.ones_like(values))
