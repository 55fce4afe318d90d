"""The options of a walk, which every sampler has."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor
from typing_extensions import Self

from diffsweep.diffusion import SPACINGS, spaced_times
from diffsweep.samplers.conditioned import CLIPS, Clip
from diffsweep.schedules import Schedule

Spacing = Literal["uniform", "trailing", "leading", "quadratic", "log_snr", "karras"]
Choice = TypeVar("Choice")


def one_of(key: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """Return ``value``, if allowed."""
    if value not in allowed:
        raise ValueError(f"sampler.{key} is one of {', '.join(map(str, allowed))}, not {value}")
    return allowed[allowed.index(value)]


@dataclass(kw_only=True, eq=False)
class WalkOptions:
    """The options of a walk. A sampler inherits them, and gives those of its defaults that differ.

    Args:
        steps: intervals of the walk, at least 1.
        spacing: how the times lie. ``uniform``: equal steps in t; ``trailing`` and ``leading``: on the grid of a
            discrete schedule, counted from its end or its start, as diffusers does; ``quadratic``: t as a square;
            ``log_snr``: equal steps in log-SNR; ``karras``: EDM's rho = 7 in sigma / alpha.
        start: the time to start at, 1 for pure noise.
        stop: the time to stop at, 0 for clean data.
        clip: how x0 is held in the data's range [-1, 1], eps following from it: ``none``; ``static`` clamps;
            ``dynamic`` scales each sample by its 99.5th percentile of |x0| where above 1 (Imagen, arXiv:2205.11487).
        temperature: the size of the noise that steps draw, 1 for as much as the process asks for. A deterministic solver draws none
            and refuses another.
    """

    steps: int = 50
    spacing: Spacing = "uniform"
    start: float = 1.0
    stop: float = 0.0
    clip: Clip = "static"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler.steps must be at least 1, not {self.steps}")
        if not 0 <= self.stop < self.start <= 1:
            raise ValueError(f"a walk needs 0 <= sampler.stop < sampler.start <= 1, not {self.stop} and {self.start}")
        one_of("spacing", self.spacing, list(SPACINGS))
        one_of("clip", self.clip, list(CLIPS))
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"sampler.temperature is at least 0 and finite, not {self.temperature}")

    def with_steps(self, steps: int) -> Self:
        """Return the same with another number of steps."""
        other = copy.copy(self)
        other.steps = steps
        WalkOptions.__post_init__(other)
        return other

    def times(self, schedule: Schedule) -> Tensor:
        """Return the times of the walk: see :func:`~diffsweep.diffusion.spacing.walk_times`."""
        return spaced_times(schedule, self.spacing, self.steps, self.start, self.stop)
