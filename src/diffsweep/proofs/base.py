"""The base of proofs: their subject, the checks that they yield, and the decorator that collects them."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffsweep.diffusion import (
    INDEPENDENT,
    AsPredicted,
    ClipNoise,
    Denoiser,
    GaussianDenoiser,
    GaussianSolution,
    Prediction,
)
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
from diffsweep.samplers import Sampler, Solved
from diffsweep.schedules import Schedule

MANY = 500  # number of steps with which samples must have the distribution of the data


class Check(NamedTuple):
    """A result of a proof of ``verify.py``: a measured number, and the bounds within which it must lie.

    Attributes:
        name: what was measured, in words, as the certificate ``verify.json`` shows it.
        measured: the number.
        least, most: the lower and the upper bound, inclusive; None for no bound.
    """

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        """Return whether the number lies within its bounds, which are included; NaN never does, even without bounds."""
        if math.isnan(self.measured):
            return False
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    @property
    def required(self) -> bool:
        """Return whether the number has a bound; a number without one is only reported."""
        return self.least is not None or self.most is not None


class Curve(NamedTuple):
    """A curve of a sampler's errors over their cost, with one point for each number of steps or each tolerance.

    Attributes:
        evaluations: the cost of each point: network evaluations of a sample, or steps.
        errors: the error of each point.
    """

    evaluations: list[float]
    errors: list[float]


class Trial(NamedTuple):
    """A sampler with a number of steps, whose samples a proof compares with the data.

    Attributes:
        sampler: the sampler.
        label: the beginning of the names of its checks, such as ``500 steps: ``; empty for an adaptive solver.
        required: whether its samples must agree with the data; otherwise the error is only reported.
    """

    sampler: Sampler
    label: str
    required: bool


@dataclass
class Subject:
    """The combination of parts that ``verify.py`` proves, which every proof gets, and the curves measured so far.

    Attributes:
        schedule, prediction, sampler: the parts that the user chose.
        guidance: the chosen guidance, a function ``guidance(denoiser, times=times)`` that wraps a denoiser.
        noise: the covariance of noise over the frames of clips.
        task: the task of ``sample.py`` that is proved too, such as ``inpaint``; None for none.
        curves: errors of the sampler, which proofs add by name. ``order``: the mean errors over the number of steps;
            ``wasserstein``: the distances of samples from the data over network evaluations; ``solution``: for a
            deterministic solver, the distances from the ODE's solution over network evaluations.
        passages: errors of inpainted samples over the number of passages of RePaint, which proofs add by name.
    """

    schedule: Schedule
    prediction: Prediction
    sampler: Sampler
    guidance: Callable[..., Denoiser] = unguided
    noise: ClipNoise = INDEPENDENT
    task: Any = None
    curves: dict[str, Curve] = field(default_factory=dict)
    passages: dict[str, Curve] = field(default_factory=dict)

    @property
    def gaussian(self) -> Denoiser:
        """Return the exact denoiser of Gaussian data in the plane, (B, 2), under the chosen schedule and prediction.

        For a sampler of consistency functions it is the exact consistency function.
        """
        kind = GaussianSolution if self.of_consistency else GaussianDenoiser
        return AsPredicted(kind(self.schedule, MEAN, COVARIANCE), self.prediction)

    @property
    def clips(self) -> Denoiser:
        """Return the exact denoiser of Gaussian clips of four frames, (B, 1, 4, 1, 1), under the chosen clip noise."""
        frames = len(CLIP_MEAN)
        exact = GaussianDenoiser(self.schedule, CLIP_MEAN, CLIP_COVARIANCE, noise=self.noise, shape=(1, frames, 1, 1))
        return AsPredicted(exact, self.prediction)

    @property
    def mixture(self) -> Denoiser:
        """Return the exact denoiser of a mixture of three Gaussians in the plane, (B, 2), of the classes 0, 1 and 0.

        For a sampler of consistency functions it is the exact consistency function.
        """
        exact = exact_mixture(self.schedule)
        return AsPredicted(Solved(exact) if self.of_consistency else exact, self.prediction)

    @property
    def of_consistency(self) -> bool:
        """Return whether the sampler is one of consistency functions, with which any number of steps is exact."""
        return "consistency" in self.sampler.requires

    @property
    def guided(self) -> Denoiser:
        """Return the denoiser of :attr:`mixture` wrapped in the chosen guidance, for the times of the chosen sampler.

        Trained models that guidance uses are replaced by exact ones.
        """
        guidance = with_stand_ins(self.guidance, StandIn(self.schedule, self.prediction))
        return guidance(self.mixture, times=self.sampler.times(self.schedule))

    def trials(self, **changes: Any) -> list[Trial]:
        """Return the samplers whose samples proofs compare with the data, the one of fewer steps first.

        These are the chosen sampler, and the same with :data:`MANY` (500) steps. Samples of 500 or more steps must
        agree with the data; the errors of fewer steps are only reported. Where the schedule does not have so many
        times, as on a grid of 100 with trailing spacing, the second has as many steps as possible. If both are equal,
        the list has one trial. An adaptive solver has one trial, which must agree, and so has a sampler of consistency
        functions.

        Args:
            changes: other settings of both samplers, such as ``clip="none"``: see :meth:`sampler_with`.
        """
        if self.sampler.tolerance is not None or self.of_consistency:
            return [Trial(self.sampler_with(**changes), "", True)]
        counts = sorted({self.sampler.steps, self.most_steps()})
        return [Trial(self.sampler_with(steps=n, **changes), f"{n} steps: ", n >= MANY) for n in counts]

    def most_steps(self) -> int:
        """Return the largest number of steps, from the chosen one to 500, that the schedule has times for.

        It is the chosen number where that is above 500.
        """
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
        """Return a copy of the sampler with other settings, such as ``steps=100`` or ``clip="none"``.

        Settings other than ``steps`` are not checked.

        Raises:
            ValueError: steps is less than 1.
        """
        other = self.sampler.with_steps(changes.pop("steps", self.sampler.steps))
        for name, value in changes.items():
            setattr(other, name, value)
        return other


Proof = Callable[[Subject], Iterator[Check]]
PLACES: dict[Proof, int] = {}


def proof(place: int = 80) -> Callable[[Proof], Proof]:
    """Return a decorator that makes a function a proof, a check that ``verify.py`` runs.

    The function takes a :class:`Subject` and yields :class:`Check`; none if it does not apply to the chosen parts. The
    decorator registers the function and returns it unchanged.

    Args:
        place: a number that orders the proofs: they run, and ``verify.json`` lists their checks, by increasing place.
    """

    def collect(function: Proof) -> Proof:
        PLACES[function] = place
        return function

    return collect


def proofs_of(packages: Sequence[str]) -> list[Proof]:
    """Return the proofs, the functions that ``verify.py`` runs, in the order in which it runs them.

    They are ordered by ``place``, a number that the decorator :func:`proof` gives each of them, then by name. The
    module of a proof must have been imported.

    Args:
        packages: top-level packages besides diffsweep whose proofs are included; those of other packages are not.
    """
    own = [function for function in PLACES if is_of(function, packages)]
    return sorted(own, key=lambda function: (PLACES[function], function.__name__))
