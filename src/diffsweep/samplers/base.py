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
    Denoiser,
    Move,
    Noise,
    PlainDenoiser,
    Step,
    StepNoise,
    as_denoiser,
    expand_to,
    fresh_noise,
    in_numbers,
    raised,
    step_between,
    steps_of,
)
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.options import WalkOptions
from diffsweep.samplers.watch import Watch
from diffsweep.schedules import Level

Callback = Callable[[int, Tensor, Denoised, Tensor], None]


class State(NamedTuple):
    """The state that one step of a sampler leaves for the next step of the same trajectory.

    Each step returns a new one and the next step gets it. A sampler object stores none of it, so threads can share a
    sampler.

    Attributes:
        denoised: the denoiser's estimate of x_0 and eps at the start of the step; x_0 is clipped, if clipping is on.
        history: what a multistep solver remembers of earlier steps, of a form of its own; None for a single-step
            solver.
    """

    denoised: Denoised
    history: Any = None


@dataclass(kw_only=True, eq=False)
class Sampler(Part, WalkOptions, ABC):
    """A sampler that takes x from t = ``start`` (noise) down to t = ``stop`` (data) with the estimates of any denoiser.

    A call ``sampler(denoiser, x, cond, noise, callback)`` returns the samples. A subclass defines :meth:`advance`,
    which takes one step, and is a dataclass of its options; those that all samplers share are in
    :class:`~diffsweep.samplers.options.WalkOptions`.

    Attributes:
        order: the order of convergence of a deterministic solver; None for a stochastic one. Where it depends on an
            option, a subclass sets it before it calls this ``__post_init__``.
        uses_variance: whether the samples depend on the variance that the denoiser predicts, its ``variance_mix``.
        tolerance: the error tolerance of an adaptive solver, which chooses its steps for the whole batch at once; None
            for all other solvers.

    Raises:
        ValueError: an option is out of its range, or ``temperature`` is not 1 for a solver that draws no noise.
    """

    order: int | None = field(default=None, init=False)
    tolerance: float | None = field(default=None, init=False)
    uses_variance: ClassVar[bool] = False
    provides = frozenset({"fixed_steps"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != 1 and self.order is not None:
            raise ValueError(
                f"sampler.temperature={self.temperature} has nothing to act on: this solver draws no noise; "
                "leave it at 1, or use sampler=ancestral, or ddim with sampler.eta above 0"
            )

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """Return the capabilities that other parts of a run must provide.

        It is ``{"range"}``, a space of values in [-1, 1], if ``clip`` holds x0 in them; empty for ``clip="none"``.
        """
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
        """Return the samples at t = stop, (B, ...), of the trajectories that begin with ``x`` at t = start.

        Args:
            denoiser: any denoiser, guided or not; or an object that has ``schedule`` and ``__call__`` alone.
            x: the first state, (B, ...); for start = 1 from :func:`~diffsweep.diffusion.prior`.
            cond: the condition of each sample.
            noise: the source of the noise that the steps draw, keyed by sample; by default one whose seed comes from
                torch's global generator.
            callback: called after each step down in t as ``callback(step, t, denoised, x)``: the step's index from 0,
                the time at which it began, the denoiser's estimate at that time, and x at the end of the step.

        Raises:
            NotFinite: x contains a NaN or an infinity after a step.
            ValueError: the schedule has too few times for the number of steps and the spacing; or guidance goes back in
                t, and the solver is adaptive or has too few steps.
        """
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip)
        moves = self.moves(denoise.denoiser, measured=getattr(cond, "known", None) is not None)
        down = [move.step for move in moves if not move.up]
        noise = fresh_noise(x, denoise.denoiser.noise) if noise is None else noise
        noise = StepNoise(noise, len(down), self.temperature)
        state, watch, taken = None, Watch([(step.at_t, step.at_s) for step in down]), 0
        for i, (step, up) in enumerate(moves):
            if up:
                x, state = raised(x, step, noise.at(i - taken)), None
                continue
            own = noise.at(taken)
            x, state = self.advance(denoise, x, step, state, own)
            x = denoise.denoiser.corrected(x, step.at_s, cond, own)
            watch(x)
            if callback is not None:
                callback(taken, step.at_t.t, state.denoised, x)
            taken += 1
        watch.finish()
        return x

    def moves(self, denoiser: PlainDenoiser, measured: bool = False) -> list[Move]:
        """Return the moves of which a call of the sampler consists: its steps, and the ways back up in t between them.

        Only guidance that goes back in t, such as RePaint, has any of the latter. Each step down in t is a call of the
        callback.

        Args:
            denoiser: the denoiser that would be sampled, guided or not.
            measured: whether a measurement of the samples is known, ``cond.known``.

        Raises:
            ValueError: as of a call of the sampler.
        """
        denoiser = as_denoiser(denoiser)
        # The coefficients of all steps come from one call of the schedule, which is faster than a call for each step.
        moves = denoiser.path(in_numbers(steps_of(denoiser.schedule, self.times(denoiser.schedule))), measured)
        if self.tolerance is not None and any(move.up for move in moves):
            raise ValueError(
                "guidance that goes back in t needs steps at fixed times, and an adaptive solver chooses its own; "
                "use sampler=ddim or another solver with a number of steps"
            )
        return moves

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
        """Take one step from t to s < t, and return x at s, (B, ...), and the state for the next step.

        It lets a caller run its own loop over times, in place of a call of the sampler.

        Args:
            denoiser: any denoiser, guided or not; or an object that has ``schedule`` and ``__call__`` alone.
            x: noisy samples at t, (B, ...).
            t, s: the times, float64 scalar tensors on the CPU.
            state: the state that the previous step returned; None for the first step.
            noise: the source of this step's noise: the noise of the samples at this step's index.
            cond: the condition of each sample.
            to_clean: end at clean data (sigma = 0) even where the schedule's sigma(0) is above 0, as the last step of a
                trajectory to t = 0 does. A step from t = 0 to s = 0 always ends at clean data.
        """
        denoise = ConditionedDenoiser(as_denoiser(denoiser), cond, self.clip)
        clean = torch.tensor([to_clean or bool(s == t == 0)])
        (step,) = in_numbers(step_between(denoise.schedule, s[None], t[None], clean))
        return self.advance(denoise, x, step, state, StepNoise(noise, 1, self.temperature))

    @torch.no_grad()
    def step_each(
        self, denoiser: PlainDenoiser, x: Tensor, step: Step[Tensor], cond: Condition | None = None
    ) -> Tensor:
        """Return x, (B, ...), after one step of each sample, from a time t to a time s < t that are its own.

        Distillation makes its targets of such steps of a teacher. Samples with the same two times are evaluated in one
        call of the denoiser; DDIM and Heun's method evaluate all samples in one call.

        Args:
            denoiser: any denoiser, guided or not.
            x: noisy samples at t, (B, ...).
            step: the noise levels at both ends, (B,) each: see :func:`~diffsweep.diffusion.step_between`.
            cond: the condition of each sample.

        Raises:
            ValueError: the steps of this sampler draw noise.
        """
        if self.order is None:
            raise ValueError(
                f"{type(self).__name__} draws noise in its steps; use a deterministic sampler, such as ddim"
            )
        return self.advance_each(as_denoiser(denoiser), x, step, cond)

    def advance_each(self, denoiser: Denoiser, x: Tensor, step: Step[Tensor], cond: Condition | None) -> Tensor:
        """Return what :meth:`step_each` returns, with its arguments; it waits for the device to read the times.

        Subclasses override it where a step of all samples takes as many calls of the denoiser as one of a single one.
        """
        levels = (*step.at_t, *step.at_s, step.var_ts, step.var_post)
        numbers = torch.stack([part.double().cpu() for part in levels], 1)  # (B, 8)
        moved = torch.empty_like(x)
        for each in numbers.unique(dim=0):
            rows = (numbers == each).all(1).nonzero()[:, 0].to(x.device)
            _, alpha_t, sigma_t, _, alpha_s, sigma_s, *variances = each.tolist()
            ends = Level(each[0], alpha_t, sigma_t), Level(each[3], alpha_s, sigma_s)
            denoise = ConditionedDenoiser(denoiser, None if cond is None else cond[rows], self.clip)
            moved[rows] = self.advance(denoise, x[rows], Step(*ends, *variances), None, Noise(0, rows))[0]
        return moved

    @property
    def invertible(self) -> bool:
        """Return whether :meth:`invert` can follow trajectories backwards, from data to the noise that gives them."""
        return False

    def invert(
        self, denoiser: PlainDenoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        """Return the x at t = start, (B, ...), from which sampling ends near ``x``, if the sampler is invertible.

        This method of the base class always raises; subclasses that can be inverted override it.

        Args:
            denoiser: any denoiser, guided or not.
            x: the samples at t = stop, (B, ...).
            cond: the condition of each sample.
            callback: called after each step as ``callback(step, t, denoised, x)``: the step's index from 0, the time at
                which the denoiser was evaluated, its estimate, and x at the end of the step.

        Raises:
            ValueError: the sampler is not invertible: see :attr:`invertible`.
        """
        raise ValueError("only deterministic DDIM can be inverted; use sampler=ddim with sampler.eta=0")

    @abstractmethod
    def advance(
        self, denoise: ConditionedDenoiser, x: Tensor, step: Step[float], state: State | None, noise: Noise
    ) -> tuple[Tensor, State]:
        """Return x at the end of a step from t to s < t, (B, ...), and the state for the next step.

        Each subclass defines it; sampling calls it once for each step.

        Args:
            denoise: the denoiser with its condition and its clipping; ``denoise(x, step.at_t)`` gives x_0 and eps at t.
            x: noisy samples at t, (B, ...).
            step: the noise levels ``at_t`` and ``at_s`` at its ends (time, alpha and sigma) and the variances of the
                transition between them, as Python numbers: see :class:`~diffsweep.diffusion.Step`.
            state: the state that the previous step returned; None for the first step.
            noise: the source of this step's noise; ``noise.like(x)`` is standard normal noise times the temperature.
        """


def euler_step(denoised: Denoised, alpha: float, sigma: float) -> Tensor:
    r"""Return :math:`\alpha x_0 + \sigma \epsilon`, where a step of Euler's method on the probability-flow ODE ends.

    It is finite at both ends, alpha = 0 and sigma = 0.

    Args:
        denoised: the denoiser's x_0 and eps at the start of the step.
        alpha, sigma: alpha and sigma of the schedule at the end of the step.
    """
    return (denoised.x0 * alpha).add_(denoised.eps, alpha=sigma)


def euler_step_each(denoised: Denoised, at_s: Level[Tensor]) -> Tensor:
    """Return where Euler's step ends for samples that each have a noise level: see :func:`euler_step`.

    Args:
        denoised: the denoiser's x_0 and eps at the start of the step, (B, ...).
        at_s: alpha and sigma at the end of the step, (B,) each.
    """
    alpha, sigma = (expand_to(value.to(denoised.x0), denoised.x0) for value in at_s[1:])
    return alpha * denoised.x0 + sigma * denoised.eps
