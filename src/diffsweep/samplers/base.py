"""What samplers share: the walk over times from t = 1 to t = 0, and its steps."""

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
    """What one step leaves for the next. It belongs to the walk: a sampler holds none, so threads can share it.

    Attributes:
        denoised: what the denoiser said at the step's start, clipped.
        history: what a multi-step solver remembers; None for a single-step one.
    """

    denoised: Denoised
    history: Any = None


@dataclass(kw_only=True, eq=False)
class Sampler(Part, WalkOptions, ABC):
    """Walks t from ``start`` to ``stop`` over any denoiser. A subclass defines :meth:`advance`, one step, and is a dataclass of its options.

    Attributes:
        order: order of convergence of a deterministic solver, None for a stochastic one. Where it depends on an option, a subclass sets it
            before it calls this ``__post_init__``.
        uses_variance: whether the denoiser's ``variance_mix`` changes the samples.
        tolerance: of an adaptive solver, which chooses its steps for a batch at once; None for all others.
    """

    order: int | None = field(default=None, init=False)
    tolerance: float | None = field(default=None, init=False)
    uses_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != 1 and self.order is not None:
            raise ValueError(
                f"sampler.temperature={self.temperature} has nothing to act on: this solver draws no noise; leave it at 1, or use "
                "sampler=ancestral, or ddim with sampler.eta above 0"
            )

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The range that a clip holds x0 in."""
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
        """Walk from ``x`` at t = start to the sample at t = stop.

        Args:
            denoiser: any denoiser; guided or not, or an object with ``schedule`` and ``__call__`` alone.
            x: (B, ...), for start = 1 from :func:`~diffsweep.diffusion.prior`.
            cond: condition of each sample.
            noise: keyed noise of the samples; by default drawn from a seed of torch's global generator.
            callback: called after each step as ``callback(step, t, denoised, x)``, with the time the step began at,
                what the denoiser said there and the new x.
        """
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip)
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
        """Take one step from t to s < t (each a float64 scalar tensor); ``state`` is None at first. Return x at s, and the state.

        With ``to_clean`` it goes to clean data, where sigma(0) is not 0: a walk to s = 0 ends so. From t = 0 there is no other step.
        """
        denoise, clean = (
            ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip),
            torch.tensor([to_clean or bool(s == t == 0)]),
        )
        (step,) = in_numbers(step_between(denoise.schedule, s[None], t[None], clean))
        return self.advance(denoise, x, step, state, StepNoise(noise, 1, self.temperature))

    @property
    def invertible(self) -> bool:
        """Whether the walk can be taken backwards, from data to their noise: see :meth:`invert`."""
        return False

    def invert(
        self, denoiser: PlainDenoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        """Return the x at t = start whose walk ends near ``x``, where the sampler is invertible.

        Raises:
            ValueError: it is not.
        """
        raise ValueError("only DDIM's deterministic walk is inverted; use sampler=ddim with sampler.eta=0")

    @abstractmethod
    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        """Return x at the step's end, and what the next step needs of this one.

        Args:
            look: the denoiser, its condition and its clip: ``look(x, step.here)``.
            x: (B, ...), at the level ``step.here``.
            step: from which level to which, in numbers.
            state: what the step before has left; None at first.
            noise: of this step.
        """


def euler_step(denoised: Denoised, alpha: float, sigma: float) -> Tensor:
    r"""Return where Euler's method on the sampling ODE arrives at (alpha, sigma): :math:`\alpha x_0 + \sigma \epsilon`, finite at both ends."""
    return (denoised.x0 * alpha).add_(denoised.eps, alpha=sigma)
