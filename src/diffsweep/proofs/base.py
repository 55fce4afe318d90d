"""The subject of proofs, the checks that they yield, and the decorator that collects them."""

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

MANY = 500  # steps after which samples must be those of the data


class Check(NamedTuple):
    """A number that was measured, and the bounds that it must keep.

    Attributes:
        name: what was measured.
        measured: the number.
        least, most: what it must reach, and must not pass; None where there is no bound.
    """

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the bounds are kept. NaN keeps none."""
        if math.isnan(self.measured):
            return False
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    @property
    def required(self) -> bool:
        """Whether there is a bound; a number without one is only reported."""
        return self.least is not None or self.most is not None


class Curve(NamedTuple):
    """Errors of walks by their network evaluations."""

    evaluations: list[float]
    errors: list[float]


class Trial(NamedTuple):
    """A walk whose samples are compared with the data.

    Attributes:
        sampler: that walks.
        label: how names of checks begin: its number of steps; empty for an adaptive solver.
        required: whether its samples must be right. Otherwise the error is reported.
    """

    sampler: Sampler
    label: str
    required: bool


@dataclass
class Subject:
    """The parts under proof, and the curves that were measured on the way.

    Attributes:
        schedule, prediction, sampler, guidance, noise: the chosen parts.
        curves: ``order`` by steps; ``wasserstein`` and, of a deterministic solver, ``solution`` by network evaluations.
    """

    schedule: Schedule
    prediction: Prediction
    sampler: Sampler
    guidance: Callable[..., Denoiser] = unguided
    noise: ClipNoise = INDEPENDENT
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def gaussian(self) -> Denoiser:
        """The exact denoiser of Gaussian data in the plane."""
        return AsPredicted(GaussianDenoiser(self.schedule, MEAN, COVARIANCE), self.prediction)

    @property
    def clips(self) -> Denoiser:
        """The exact denoiser of clips (B, 1, F, 1, 1) of Gaussian data, under the chosen noise."""
        frames = len(CLIP_MEAN)
        exact = GaussianDenoiser(self.schedule, CLIP_MEAN, CLIP_COVARIANCE, noise=self.noise, shape=(1, frames, 1, 1))
        return AsPredicted(exact, self.prediction)

    @property
    def mixture(self) -> Denoiser:
        """The exact denoiser of a mixture of Gaussians in the plane, whose components have classes."""
        return AsPredicted(exact_mixture(self.schedule), self.prediction)

    @property
    def guided(self) -> Denoiser:
        """The mixture's denoiser under guidance for the chosen walk."""
        guidance = with_stand_ins(self.guidance, StandIn(self.schedule, self.prediction))
        return guidance(self.mixture, times=self.sampler.times(self.schedule))

    def trials(self, **changes: Any) -> list[Trial]:
        """Return the walks whose samples are compared with the data: the chosen one, and one of :data:`MANY` steps, which must be right.

        Where so many steps do not exist, as on a grid of 100 with trailing spacing, the second walk has as many as there are, and its
        errors are reported. An adaptive solver has one walk, which must be right.

        Args:
            changes: see :meth:`sampler_with`.
        """
        if self.sampler.tolerance is not None:
            return [Trial(self.sampler_with(**changes), "", True)]
        counts = sorted({self.sampler.steps, self.most_steps()})
        return [Trial(self.sampler_with(steps=n, **changes), f"{n} steps: ", n >= MANY) for n in counts]

    def most_steps(self) -> int:
        """Return the largest number of steps from the chosen to :data:`MANY` whose times exist on this schedule."""
        more = range(self.sampler.steps + 1, MANY + 1)
        return self.sampler.steps + bisect_left(more, True, key=lambda steps: not self.exists(steps))

    def exists(self, steps: int) -> bool:
        """Return whether a walk of so many steps has its times on this schedule."""
        try:
            self.sampler.with_steps(steps).times(self.schedule)
        except ValueError:
            return False
        return True

    def sampler_with(self, **changes: Any) -> Sampler:
        """Return the sampler with other settings of its walk, such as ``steps=100`` or ``clip="none"``."""
        other = self.sampler.with_steps(changes.pop("steps", self.sampler.steps))
        for name, value in changes.items():
            setattr(other, name, value)
        return other


Proof = Callable[[Subject], Iterator[Check]]
PLACES: dict[Proof, int] = {}


def proof(place: int = 80) -> Callable[[Proof], Proof]:
    """Make a function a proof of ``verify.py``.

    Args:
        place: proofs run, and stand in the certificate, in the order of their places.
    """

    def collect(function: Proof) -> Proof:
        PLACES[function] = place
        return function

    return collect


def proofs_of(packages: Sequence[str]) -> list[Proof]:
    """Return diffsweep's proofs and those of the packages, in the order of their places."""
    own = [function for function in PLACES if is_of(function, packages)]
    return sorted(own, key=lambda function: (PLACES[function], function.__name__))
