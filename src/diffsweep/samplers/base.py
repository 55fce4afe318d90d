r"""The base class of samplers: a trajectory from t = 1 to t = 0, one step after another.

At each step, from a time t to s < t, the denoiser estimates :math:`x_0, \epsilon` with
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, and the sampler's :meth:`Sampler.advance` computes :math:`x_s`. The
simplest step, Euler's on the probability-flow ODE and DDIM's, is :math:`x_s = \alpha_s x_0 + \sigma_s \epsilon`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion import (
    Condition,
    Denoised,
    Noise,
    PlainDenoiser,
    Step,
    StepNoise,
    as_denoiser,
    fresh_noise,
    in_numbers,
    step_between,
    steps_of,
)
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.options import WalkOptions
from diffsweep.samplers.watch import Watch

Callback = Callable[[int, Tensor, Denoised, Tensor], None]


class State(NamedTuple):
    """The state that one step leaves for the next.

    It belongs to a trajectory. A sampler object holds none of it, so threads can share a sampler.

    Attributes:
        denoised: the denoiser's estimate at the start of the step, clipped.
        history: what a multistep solver remembers of earlier steps; None for a single-step solver.
    """

    denoised: Denoised
    history: Any = None


@dataclass(kw_only=True, eq=False)
class Sampler(Part, WalkOptions, ABC):
    """A sampler that takes x from t = ``start`` to t = ``stop`` over any denoiser.

    A subclass defines :meth:`advance`, which takes one step, and is a dataclass of its options.

    Attributes:
        order: the order of convergence of a deterministic solver; None for a stochastic one. Where it depends on an
            option, a subclass sets it before it calls this ``__post_init__``.
        uses_variance: whether the denoiser's ``variance_mix`` changes the samples.
        tolerance: the error tolerance of an adaptive solver, which chooses its steps for the whole batch at once; None
            for all other solvers.
    """

    order: int | None = field(default=None, init=False)
    tolerance: float | None = field(default=None, init=False)
    uses_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != 1 and self.order is not None:
            raise ValueError(
                f"sampler.temperature={self.temperature} has nothing to act on: this solver draws no noise; "
                "leave it at 1, or use sampler=ancestral, or ddim with sampler.eta above 0"
            )

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """Return what the data must provide: their ``range``, where ``clip`` holds x0 in it."""
        return frozenset() if self.clip == "none" else frozenset({"range"})

    @torch.no_grad()
    def __call__(
        self,
        denoiser: PlainDenoiser,
        x: Tensor,
        cond: Condition | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return the samples at t = stop, of the trajectory that begins with ``x`` at t = start.

        Args:
            denoiser: any denoiser, guided or not; or an object that has ``schedule`` and ``__call__`` alone.
            x: the first state, (B, ...); for start = 1 from :func:`~diffsweep.diffusion.prior`.
            cond: the condition of each sample.
            noise: the noise of the steps, keyed by sample; by default from a seed of torch's global generator.
            callback: called after each step as ``callback(step, t, denoised, x)``: the step's index from 0, the time at
                which it began, the denoiser's estimate at that time, and x at the end of the step.
        """
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip)
        # The coefficients of all steps come from one call of the schedule, which is faster than a call for each step.
        steps = in_numbers(steps_of(denoise.schedule, self.times(denoise.schedule)))
        noise = fresh_noise(x, denoise.denoiser.noise) if noise is None else noise
        noise = StepNoise(noise, len(steps), self.temperature)
        state, watch = None, Watch([(step.at_t, step.at_s) for step in steps])
        for i, step in enumerate(steps):
            x, state = self.advance(denoise, x, step, state, noise.at(i))
            watch(x)
            if callback is not None:
                callback(i, step.at_t.t, state.denoised, x)
        return x

    @torch.no_grad()
    def step(
        self,
        denoiser: PlainDenoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State | None,
        noise: Noise,
        cond: Condition | None = None,
        to_clean: bool = False,
    ) -> tuple[Tensor, State]:
        """Take one step from t to s < t, and return x at s and the state for the next step.

        Args:
            denoiser: any denoiser, guided or not; or an object that has ``schedule`` and ``__call__`` alone.
            x: the state at t, (B, ...).
            t, s: float64 scalar tensors.
            state: what the previous step returned; None for the first step.
            noise: the noise of this step.
            cond: the condition of each sample.
            to_clean: end at clean data (sigma = 0) even where the schedule's sigma(0) is above 0, as the last step of a
                trajectory to t = 0 does. A step from t = 0 to s = 0 always does.
        """
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip)
        clean = torch.tensor([to_clean or bool(s == t == 0)])
        (step,) = in_numbers(step_between(denoise.schedule, s[None], t[None], clean))
        return self.advance(denoise, x, step, state, StepNoise(noise, 1, self.temperature))

    @property
    def invertible(self) -> bool:
        """Return whether :meth:`invert` can follow trajectories backwards, from data to the noise that gives them."""
        return False

    def invert(
        self, denoiser: PlainDenoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        """Return the x at t = start from which sampling ends near ``x``, if the sampler is invertible.

        Args:
            denoiser: any denoiser, guided or not.
            x: the state at t = stop, (B, ...).
            cond: the condition of each sample.
            callback: called after each step, as in sampling.

        Raises:
            ValueError: the sampler is not invertible.
        """
        raise ValueError("only deterministic DDIM can be inverted; use sampler=ddim with sampler.eta=0")

    @abstractmethod
    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        """Return x at the end of a step from t to s, and the state for the next step.

        Args:
            denoise: the denoiser, bound to its condition and its clip: ``denoised = denoise(x, step.at_t)``.
            x: the state at t, (B, ...).
            step: the levels ``at_t`` and ``at_s`` and the variances of the step, as numbers.
            state: what the previous step returned; None for the first step.
            noise: the noise of this step.
        """


def euler_step(denoised: Denoised, alpha: float, sigma: float) -> Tensor:
    r"""Return :math:`\alpha x_0 + \sigma \epsilon`, where a step of Euler's method on the probability-flow ODE ends.

    It is finite at both ends, alpha = 0 and sigma = 0.

    Args:
        denoised: the denoiser's estimate at the start of the step.
        alpha, sigma: those at the end of the step.
    """
    return (denoised.x0 * alpha).add_(denoised.eps, alpha=sigma)
