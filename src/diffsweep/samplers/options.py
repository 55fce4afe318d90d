"""The options that every sampler has: the number of its steps, their times, clipping and temperature."""

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
    """Return ``value`` if it is allowed; raise a ValueError that names the option ``sampler.<key>`` otherwise."""
    if value not in allowed:
        raise ValueError(f"sampler.{key} is one of {', '.join(map(str, allowed))}, not {value}")
    return allowed[allowed.index(value)]


@dataclass(kw_only=True, eq=False)
class WalkOptions:
    """The options that every sampler has; they define the times of its steps, clipping and temperature.

    A sampler inherits from this class and may override defaults. Samplers are dataclasses with keyword-only fields, so
    that each option is declared once and stays in the signature of every subclass. Times run from 1 (noise) to 0 (clean
    data).

    Args:
        steps: the number of steps from ``start`` to ``stop``, at least 1.
        spacing: how the times of the steps are spaced. ``uniform``: equal steps in t; ``trailing`` and ``leading``: on
            the grid of a discrete schedule, counted from its end or its start, as diffusers does; ``quadratic``: t is
            the square of an evenly spaced number; ``log_snr``: equal steps in log-SNR; ``karras``: EDM's times, rho = 7
            in sigma / alpha.
        start: the time at which sampling starts, 1 for pure noise.
        stop: the time at which sampling stops, 0 for clean data.
        clip: how each x0 estimate is held in the data's range [-1, 1]; eps is recomputed from the clipped x0. ``none``:
            it is not; ``static``: it is clamped to [-1, 1]; ``dynamic``: with p the 99.5th percentile of a sample's
            absolute values and m = max(p, 1), it is clamped to [-m, m] and divided by m (Imagen, arXiv:2205.11487).
        temperature: a factor on the noise that steps draw; 1 draws the variance that the reverse process has. It is
            S_noise of EDM and s_noise of k-diffusion. A deterministic solver draws no noise and accepts 1 only.

    Raises:
        ValueError: an option is out of its range, or stop is not below start.
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
        if self.start == 0:
            reason = "at t = 0 data are clean, so no step is left and an image stays as it is"
            raise ValueError(f"sampler.start=0: {reason}; use a time up to 1, such as sampler.start=0.6 to edit images")
        if not 0 <= self.stop < self.start <= 1:
            raise ValueError(f"sampling needs 0 <= sampler.stop < sampler.start <= 1, not {self.stop} and {self.start}")
        one_of("spacing", self.spacing, list(SPACINGS))
        one_of("clip", self.clip, list(CLIPS))
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"sampler.temperature is at least 0 and finite, not {self.temperature}")

    def with_steps(self, steps: int) -> Self:
        """Return a copy of this sampler with another number of steps; a ValueError is raised for less than 1."""
        other = copy.copy(self)
        other.steps = steps
        WalkOptions.__post_init__(other)
        return other

    def times(self, schedule: Schedule) -> Tensor:
        """Return the times between which the steps lie, decreasing from ``start`` to ``stop``: float64, (steps + 1,).

        They end with two zeros where stop is 0 and the schedule's sigma(0) is not: the last step removes that noise.
        With ``leading`` the first time can lie below ``start``.

        Raises:
            ValueError: the spacing does not suit the schedule: a grid spacing of a continuous schedule, or more steps
                than the grid has.
        """
        return spaced_times(schedule, self.spacing, self.steps, self.start, self.stop)
