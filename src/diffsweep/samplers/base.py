"""What samplers share: the walk over times from t = 1 to t = 0, its spacing, clipping and callback."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from diffsweep.capabilities import Part
from diffsweep.diffusion import (
    INDEPENDENT,
    SPACINGS,
    ClipNoise,
    Condition,
    Denoised,
    Denoiser,
    Noise,
    Step,
    expand_to,
    step_between,
    walk,
    walk_times,
)
from diffsweep.schedules import Located, Schedule

Spacing = Literal["uniform", "trailing", "leading", "quadratic", "log_snr", "karras"]
Clip = Literal["none", "static", "dynamic"]
Callback = Callable[[int, Tensor, Denoised, Tensor], None]


class State(NamedTuple):
    """What one step leaves for the next. It belongs to the walk: a sampler holds none, so threads can share it.

    Attributes:
        denoised: what the denoiser said at the step's start, clipped.
        history: what a multi-step solver remembers; None for a single-step one.
    """

    denoised: Denoised
    history: Any = None


class Sampler(Part, ABC):
    """Walks t from ``start`` to ``stop`` over any denoiser. A subclass defines :meth:`advance`, one step.

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

    Attributes:
        order: order of convergence of a deterministic solver, None for a stochastic one. Where it depends on an option it is set
            before this constructor is called.
        uses_variance: whether the denoiser's ``variance_mix`` changes the samples.
        tolerance: of an adaptive solver, which chooses its steps for a batch at once; None for all others.
    """

    order: int | None = None
    uses_variance: bool = False
    tolerance: float | None = None

    def __init__(
        self,
        steps: int = 100,
        spacing: Spacing = "uniform",
        start: float = 1.0,
        stop: float = 0.0,
        clip: Clip = "static",
        temperature: float = 1.0,
    ) -> None:
        if steps < 1:
            raise ValueError(f"sampler.steps must be at least 1, not {steps}")
        if not 0 <= stop < start <= 1:
            raise ValueError(f"a walk needs 0 <= sampler.stop < sampler.start <= 1, not {stop} and {start}")
        if spacing not in SPACINGS:
            raise ValueError(f"sampler.spacing is one of {', '.join(SPACINGS)}, not {spacing}")
        if clip not in _CLIPS:
            raise ValueError(f"sampler.clip is one of {', '.join(_CLIPS)}, not {clip}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"sampler.temperature is at least 0 and finite, not {temperature}")
        if temperature != 1 and self.order is not None:
            raise ValueError(
                f"sampler.temperature={temperature} has nothing to act on: this solver draws no noise; leave it at 1, or use "
                "sampler=ancestral, or ddim with sampler.eta above 0"
            )
        self.steps, self.spacing, self.start, self.stop, self.clip = steps, spacing, start, stop, clip
        self.temperature = temperature

    @property
    def requires(self) -> frozenset[str]:  # type: ignore[override]
        """The range that a clip holds x0 in."""
        return frozenset() if self.clip == "none" else frozenset({"range"})

    @property
    def invertible(self) -> bool:
        """Whether the walk can be taken backwards, from data to their noise: see :meth:`invert`."""
        return False

    def invert(
        self, denoiser: Denoiser, x: Tensor, cond: Condition | None = None, callback: Callback | None = None
    ) -> Tensor:
        """Return the x at t = start whose walk ends near ``x``, where the sampler is invertible.

        Raises:
            ValueError: it is not.
        """
        raise ValueError("only DDIM's deterministic walk is inverted; use sampler=ddim with sampler.eta=0")

    def with_steps(self, steps: int) -> Self:
        """The same sampler with another number of steps."""
        if steps < 1:
            raise ValueError(f"sampler.steps must be at least 1, not {steps}")
        other = copy.copy(self)
        other.steps = steps
        return other

    def times(self, schedule: Schedule) -> Tensor:
        """The times of the walk: see :func:`~diffsweep.diffusion.spacing.walk_times`."""
        return walk_times(schedule, self.spacing, self.steps, self.start, self.stop)

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        cond: Condition | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Walk from ``x`` at t = start to the sample at t = stop.

        Args:
            denoiser: any denoiser; guided or not.
            x: (B, ...), for start = 1 from :func:`~diffsweep.diffusion.prior`.
            cond: condition of each sample.
            noise: keyed noise of the samples; by default drawn from a seed of torch's global generator.
            callback: called after each step as ``callback(step, t, denoised, x)``, with the time the step began at,
                what the denoiser said there and the new x.
        """
        times = self.times(denoiser.schedule)
        noise = fresh_noise(x, denoiser.noise) if noise is None else noise
        noise = noise.ahead(self.temperature, _evenly(len(times) - 1))
        state, watch = None, Watch(times, pairs := steps_of(denoiser.schedule, times))
        for i, (t, pair) in enumerate(zip(times[:-1], pairs, strict=True)):
            x, state = self.advance(denoiser, x, t, pair, state, noise.at(i), cond)
            watch(x)
            if callback is not None:
                callback(i, t, state.denoised, x)
        return x

    @torch.no_grad()
    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State | None,
        noise: Noise,
        cond: Condition | None = None,
    ) -> tuple[Tensor, State]:
        """One step from t to s < t (each a float64 scalar tensor); ``state`` is None at first. Returns x at s, and the state.

        A step to -0.0, or from 0 to 0, goes to clean data, where sigma(0) is not 0.
        """
        pair = step_between(denoiser.schedule, s, t, to_clean=s.signbit() | ((s == 0) & (t == 0)))
        numbers = Step(*(value.item() for value in pair))
        return self.advance(denoiser, x, t, numbers, state, noise.ahead(self.temperature, steps=1), cond)

    @abstractmethod
    def advance(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        pair: Step[float],
        state: State | None,
        noise: Noise,
        cond: Condition | None,
    ) -> tuple[Tensor, State]:
        """One step over a pair of times whose process coefficients are known, as numbers."""

    def denoise(self, denoiser: Denoiser, x: Tensor, t: Tensor, pair: Step[float], cond: Condition | None) -> Denoised:
        """What the denoiser says at t, clipped; eps is recomputed so that ``x = alpha x0 + sigma eps`` still holds."""
        return self._clipped(denoiser(x, t, cond), x, pair.alpha_t, pair.sigma_t)

    def denoise_at(self, denoiser: Denoiser, x: Tensor, at: Located, cond: Condition | None) -> Denoised:
        """As :meth:`denoise`, at a time between two of the walk."""
        return self._clipped(denoiser(x, at.t, cond), x, at.alpha, at.sigma)

    def _clipped(self, denoised: Denoised, x: Tensor, alpha: float, sigma: float) -> Denoised:
        clip = _CLIPS[self.clip]
        if clip is None:
            return denoised
        x0 = clip(denoised.x0)
        return Denoised(x0, torch.add(x, x0, alpha=-alpha).div_(sigma), denoised.variance_mix)


def euler_step(denoised: Denoised, alpha: float, sigma: float) -> Tensor:
    r"""Where Euler's method on the sampling ODE arrives at (alpha, sigma): :math:`\alpha x_0 + \sigma \epsilon`, finite at both ends."""
    return (denoised.x0 * alpha).add_(denoised.eps, alpha=sigma)


def steps_of(schedule: Schedule, times: Tensor) -> list[Step[float]]:
    """The steps of a walk, as numbers."""
    return [Step(*pair) for pair in zip(*(value.tolist() for value in walk(schedule, times)), strict=True)]


class WalkIsNotFinite(FloatingPointError):  # noqa: N818 - says what happened
    """A walk has come to a NaN or an infinity."""


class Watch:
    """Stops a walk that is not finite any more. It looks every few steps: each look waits for the device.

    Args:
        times: of the walk, up or down.
        pairs: its steps, in the order in which they are taken.
    """

    EVERY = 16

    def __init__(self, times: Tensor, pairs: list[Step[float]]) -> None:
        self.times, self.pairs = times, pairs
        self.sums: list[Tensor] = []  # a sum is finite where all terms are, unless they are beyond 1e30

    def __call__(self, x: Tensor) -> None:
        self.sums.append(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)))
        count = len(self.sums)
        if count % self.EVERY and count < len(self.pairs):
            return
        first = count - (count - 1) % self.EVERY - 1
        bad = [not math.isfinite(value) for value in torch.stack(self.sums[first:]).tolist()]
        if any(bad):
            i = first + bad.index(True)
            (begin, end), pair = self.times[i : i + 2].abs().tolist(), self.pairs[i]
            sigma = pair.sigma_t if begin > end else pair.sigma_s
            raise WalkIsNotFinite(
                f"the walk is not finite after step {i + 1} of {len(self.pairs)}, from t = {begin:.4g} (sigma = {sigma:.4g}) to "
                f"{end:.4g}: look at the denoiser's output there (weights, precision), or use sampler.clip=static or more steps"
            )


def _evenly(steps: int) -> int:
    """Of how many steps noise is drawn at once: at most 32, the same number each time."""
    return math.ceil(steps / math.ceil(steps / 32))


def fresh_noise(x: Tensor, clips: ClipNoise = INDEPENDENT) -> Noise:
    """Noise for the rows of ``x`` under a seed from torch's global generator, so that ``manual_seed`` governs it."""
    return Noise(int(torch.randint(2**62, ())), torch.arange(len(x), device=x.device), clips=clips)


def _static(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def _dynamic(x0: Tensor) -> Tensor:
    scale = torch.quantile(x0.flatten(1).abs().float(), 0.995, dim=1).clamp(min=1).to(x0)
    scale = expand_to(scale, x0)
    return torch.maximum(torch.minimum(x0, scale), -scale) / scale


_CLIPS: dict[str, Callable[[Tensor], Tensor] | None] = {"none": None, "static": _static, "dynamic": _dynamic}
