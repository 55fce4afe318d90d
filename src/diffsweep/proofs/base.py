"""The base of proofs: their subject, the checks that they yield, and the decorator that collects them."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffsweep.diffusion import INDEPENDENT, AsPredicted, ClipNoise, Denoiser, GaussianDenoiser, Prediction
from diffsweep.discovery import is_of
from diffsweep.guidance import unguided
from diffsweep.proofs.data import (
    CLIP_COVARIANCE,
    CLIP_MEAN,
    COVARIANCE,
    MEAN,
    StandIn,
    exact_mixture,
    with_stand_ins,
)
from diffsweep.samplers import Sampler
from diffsweep.schedules import Schedule

MANY = 500  # number of steps with which samples must have the distribution of the data


class Check(NamedTuple):
    """A measured number, and the bounds within which it must lie.

    Attributes:
        name: what was measured.
        measured: the number.
        least, most: the lower and the upper bound, inclusive; None for no bound.
    """

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        """Return whether the number lies within its bounds; NaN never does."""
        if math.isnan(self.measured):
            return False
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    @property
    def required(self) -> bool:
        """Return whether the number has a bound; a number without one is only reported."""
        return self.least is not None or self.most is not None


class Curve(NamedTuple):
    """The errors of a sampler at several settings, by what each costs.

    Attributes:
        evaluations: network evaluations, or steps, of each setting.
        errors: the error of each setting.
    """

    evaluations: list[float]
    errors: list[float]


class Trial(NamedTuple):
    """A sampler, with its number of steps, whose samples are compared with the data.

    Attributes:
        sampler: the sampler.
        label: the beginning of its checks' names: the number of steps; empty for an adaptive solver.
        required: whether its samples must agree with the data; otherwise the error is only reported.
    """

    sampler: Sampler
    label: str
    required: bool


@dataclass
class Subject:
    """The parts that proofs check, and the curves that proofs have measured.

    Attributes:
        schedule, prediction, sampler, guidance, noise: the chosen parts. ``guidance`` is a function of a denoiser, and
            ``noise`` the noise of the frames of clips.
        curves: by name. ``order``: the errors by steps; ``wasserstein``: the distances from the data by network
            evaluations; ``solution``: for a deterministic solver, the distances from the ODE's solution by network
            evaluations.
    """

    schedule: Schedule
    prediction: Prediction
    sampler: Sampler
    guidance: Callable[..., Denoiser] = unguided
    noise: ClipNoise = INDEPENDENT
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def gaussian(self) -> Denoiser:
        """Return the exact denoiser of Gaussian data in the plane."""
        return AsPredicted(GaussianDenoiser(self.schedule, MEAN, COVARIANCE), self.prediction)

    @property
    def clips(self) -> Denoiser:
        """Return the exact denoiser of Gaussian clips (B, 1, F, 1, 1) under the chosen noise."""
        frames = len(CLIP_MEAN)
        exact = GaussianDenoiser(self.schedule, CLIP_MEAN, CLIP_COVARIANCE, noise=self.noise, shape=(1, frames, 1, 1))
        return AsPredicted(exact, self.prediction)

    @property
    def mixture(self) -> Denoiser:
        """Return the exact denoiser of a mixture of Gaussians in the plane, whose components have classes."""
        return AsPredicted(exact_mixture(self.schedule), self.prediction)

    @property
    def guided(self) -> Denoiser:
        """Return the mixture's denoiser under the chosen guidance, at the times of the chosen sampler."""
        guidance = with_stand_ins(self.guidance, StandIn(self.schedule, self.prediction))
        return guidance(self.mixture, times=self.sampler.times(self.schedule))

    def trials(self, **changes: Any) -> list[Trial]:
        """Return the samplers whose samples are compared with the data.

        These are the chosen one, and one of :data:`MANY` steps, whose samples must agree with the data. Where the
        schedule does not have so many times, as on a grid of 100 with trailing spacing, the second has as many steps as
        possible, and its errors are only reported. An adaptive solver has one trial, which must agree.

        Args:
            changes: other settings of the sampler, see :meth:`sampler_with`.
        """
        if self.sampler.tolerance is not None:
            return [Trial(self.sampler_with(**changes), "", True)]
        counts = sorted({self.sampler.steps, self.most_steps()})
        return [Trial(self.sampler_with(steps=n, **changes), f"{n} steps: ", n >= MANY) for n in counts]

    def most_steps(self) -> int:
        """Return the largest number of steps, from the chosen one to :data:`MANY`, that the schedule has times for."""
        more = range(self.sampler.steps + 1, MANY + 1)
        return self.sampler.steps + bisect_left(more, True, key=lambda steps: not self.exists(steps))

    def exists(self, steps: int) -> bool:
        """Return whether the schedule has times for this number of steps, with the sampler's spacing."""
        try:
            self.sampler.with_steps(steps).times(self.schedule)
        except ValueError:
            return False
        return True

    def sampler_with(self, **changes: Any) -> Sampler:
        """Return the sampler with other settings, such as ``steps=100`` or ``clip="none"``."""
        other = self.sampler.with_steps(changes.pop("steps", self.sampler.steps))
        for name, value in changes.items():
            setattr(other, name, value)
        return other


Proof = Callable[[Subject], Iterator[Check]]
PLACES: dict[Proof, int] = {}


def proof(place: int = 80) -> Callable[[Proof], Proof]:
    """Return a decorator that makes a function a proof of ``verify.py``.

    Args:
        place: the position among the proofs; they run, and are listed in the certificate, in increasing order.
    """

    def collect(function: Proof) -> Proof:
        PLACES[function] = place
        return function

    return collect


def proofs_of(packages: Sequence[str]) -> list[Proof]:
    """Return diffsweep's proofs and those of the given packages, ordered by place, then by name."""
    own = [function for function in PLACES if is_of(function, packages)]
    return sorted(own, key=lambda function: (PLACES[function], function.__name__))
