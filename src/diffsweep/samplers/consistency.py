r"""Multistep sampling with a consistency function f: estimate a clean sample, add noise, estimate again.

.. math:: x_s = \alpha_s f(x_t, t) + \sigma_s z, \quad z \sim N(0, I)

is the step from t to s < t; the last one ends at clean data, :math:`x_0 = f(x_t, t)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import Self

from diffsweep.diffusion import SPACINGS, Noise, Step
from diffsweep.samplers.base import Sampler, State
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.options import Spacing
from diffsweep.schedules import Schedule


@dataclass(kw_only=True, eq=False)
class ConsistencySampler(Sampler):
    r"""Sample with a consistency function in few steps (Song et al. 2023, arXiv:2303.01469, algorithm 1).

    A step is :math:`x_s = \alpha_s f(x_t, t) + \sigma_s z` with new noise z, where f is the denoiser's estimate of x_0.
    It is right for a consistency function, whose estimate is a sample; the mean that a diffusion model estimates lacks
    the variance of the data. One step draws no noise.

    Args:
        at: the times from which steps begin, decreasing, such as [1.0, 0.3]; they replace ``steps``, ``spacing`` and
            ``start``. None: the times are spaced as those of other samplers.

    Raises:
        ValueError: ``at`` is empty, or its times do not decrease from at most 1 to above ``stop``.
    """

    steps: int = 2
    spacing: Spacing = "karras"
    at: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.at is not None:
            times = [*map(float, self.at), self.stop]
            if len(times) < 2 or times[0] > 1 or any(a <= b for a, b in pairwise(times)):
                raise ValueError(
                    f"sampler.at has decreasing times from at most 1 to above sampler.stop={self.stop}, such as "
                    f"[1.0,0.3], not {list(self.at)}"
                )
            self.steps, self.start = len(times) - 1, times[0]
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        return super().requires | {"consistency"}

    def with_steps(self, steps: int) -> Self:
        """Return a copy of this sampler with another number of steps, which are spaced: its list ``at`` is left out."""
        other = super().with_steps(steps)
        if steps != self.steps:
            other.at = None
        return other

    def times(self, schedule: Schedule) -> Tensor:
        """Return the times between which the steps lie, from ``at`` or spaced: none is the lowest noise level.

        A consistency function is the identity at the lowest noise level, so a step that begins at it would be wasted.
        """
        if self.at is not None:
            return torch.tensor([*self.at, self.stop], dtype=torch.float64)
        in_log_snr = self.spacing in ("log_snr", "karras") and self.start > schedule.t_min
        times = SPACINGS[self.spacing](
            schedule, self.steps, self.start, max(self.stop, schedule.t_min) if in_log_snr else self.stop
        )
        times[-1] = self.stop
        return times

    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        denoised, at_s = denoise(x, step.at_t), step.at_s
        x = denoised.x0 * at_s.alpha
        if at_s.sigma > 0:
            x.add_(noise.like(x), alpha=at_s.sigma)
        return x, State(denoised)
