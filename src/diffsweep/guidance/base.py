r"""The base class of guidance: a denoiser around a denoiser, with a scale that may change over time.

.. math:: \tilde D(x_t, t, y) = D(x_t, t, y) + s(t) \, \Delta(x_t, t, y)

D is the estimate of the guided denoiser, y the condition, s(t) the scale and :math:`\Delta` the direction of a
subclass. This class computes s(t), from a number and a shape over t, or from a list with one scale for each step of the
sampler.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition, Denoiser, Move, Noise, PlainDenoiser, Step, as_denoiser, expand_to
from diffsweep.schedules import Level

Shape = Literal["constant", "linear", "cosine"]
ExactScore = Callable[[Tensor, Tensor, Condition | None], Tensor]
_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {  # of mean 1 over t
    "constant": torch.ones_like,
    "linear": lambda t: 2 * (1 - t),
    "cosine": lambda t: 1 + torch.cos(math.pi * t),
}


class Guidance(Denoiser, Part):
    r"""A denoiser that changes the estimates of another denoiser, which may be guided itself, by a scale s(t).

    A subclass defines :meth:`forward`, which returns the guided x0 and eps, and reads the scale from :meth:`scale_on`.

    With one number as ``scale`` and ``shape="constant"``, s(t) is that number. With another shape it is
    :math:`n + (s - n) w(t)` with the neutral scale n and weights w of mean 1 over t in [0, 1] that grow towards the
    data: ``linear`` 2 (1 - t), ``cosine`` 1 + cos(pi t) (Wang et al. 2024, arXiv:2404.13040). A list has one scale for
    each step, from noise to data. In all cases s(t) is the neutral scale at times outside ``interval``.

    For a list, the times of the steps are given at construction, and no calls are counted: a solver that evaluates the
    denoiser several times in a step gets at each time the scale of the step in which that time lies. The time between
    two steps belongs to the later one, which begins at it.

    Args:
        denoiser: the denoiser to guide; an object that has ``schedule`` and ``__call__`` alone is accepted.
        scale: s, or a list of scales.
        shape: the shape of s over t: ``constant``, ``linear`` or ``cosine``; ``constant`` with a list.
        interval: the least and the most time at which guidance acts, both included, 0 <= least < most <= 1
            (Kynkaanniemi et al. 2024, arXiv:2404.07724, who give it in sigma).
        times: the times of the sampler's steps, (steps + 1,), decreasing; only a list of scales needs them.

    Attributes:
        neutral: the scale n of no guidance, at which the estimates are those of ``denoiser``.
        requires: capabilities that other parts of a run must provide: ``condition`` where guidance uses one;
            ``null_condition`` where it evaluates the network with the null condition; parts of a condition that
            guidance itself uses, such as ``num_classes``.
        exact_on_gaussians: whether samples of Gaussian data, guided by a measurement y = A x_0, have exactly the
            distribution of x_0 given y.
        differentiates: whether it takes gradients through the wrapped denoiser.

    Raises:
        ValueError: an option is out of its range, or a list of scales comes without ``times``, does not have as many
            values as steps, or has a shape.
    """

    neutral: float = 1.0
    requires = frozenset({"condition"})
    exact_on_gaussians: bool = False
    differentiates: bool = False

    def __init__(
        self,
        denoiser: Denoiser | PlainDenoiser,
        scale: float | Sequence[float],
        shape: Shape = "constant",
        interval: Sequence[float] = (0.0, 1.0),
        times: Tensor | None = None,
    ) -> None:
        denoiser = as_denoiser(denoiser)
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        if shape not in _SHAPES:
            raise ValueError(f"guidance.shape is one of {', '.join(_SHAPES)}, not {shape}")
        if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise ValueError(f"guidance.interval is two times, 0 <= least < most <= 1, not {list(interval)}")
        scales = [float(scale)] if isinstance(scale, int | float) else [float(value) for value in scale]
        if not all(math.isfinite(value) for value in scales):
            raise ValueError(f"guidance.scale must be finite, not {scale}")
        self.denoiser, self.scale, self.shape = denoiser, scale, shape
        self.least, self.most = (float(value) for value in interval)
        self._scales = scales
        # increasing times at which the scale changes, from that of a step to that of the step before it
        self._ends: list[float] = []
        if not isinstance(scale, int | float):
            if times is None:
                raise ValueError(
                    "a list of scales has one scale for each step: pass the times of the sampler's steps as times=..."
                )
            if len(scales) != len(times) - 1:
                raise ValueError(
                    f"guidance.scale has {len(scales)} values for {len(times) - 1} steps: give one for each step "
                    "(sampler.steps), or one number for all"
                )
            if shape != "constant":
                raise ValueError("a list of scales has its own shape; leave guidance.shape=constant")
            self._ends = [float(time) for time in times.flip(0)[1:-1]]
            self._scales = scales[::-1]

    def scale_at(self, t: Tensor) -> float | Tensor:
        """Return the scale s(t): a number for one time of shape () on the CPU, else a tensor like ``t``, (B,)."""
        if t.ndim == 0 and t.device.type == "cpu":
            return float(self._scale_of(t.double()[None])[0]) if self.varies else self._scales[0]
        return self._scale_of(t)

    def scale_on(self, x_t: Tensor, t: Tensor) -> float | Tensor:
        """Return the scale s(t) as a number, or as a tensor with axes added so that it multiplies ``x_t`` (B, ...)."""
        scale = self.scale_at(t)
        return expand_to(scale, x_t) if isinstance(scale, Tensor) else scale

    @property
    def varies(self) -> bool:
        """Return whether s(t) depends on t."""
        return self.shape != "constant" or len(self._scales) > 1 or (self.least, self.most) != (0.0, 1.0)

    def _scale_of(self, t: Tensor) -> Tensor:
        if len(self._scales) > 1:
            rows = [bisect_left(self._ends, time) for time in t.tolist()]
            scale = torch.tensor([self._scales[row] for row in rows], dtype=t.dtype, device=t.device)
        else:
            scale = self.neutral + (self._scales[0] - self.neutral) * _SHAPES[self.shape](t)
        return torch.where((t >= self.least) & (t <= self.most), scale, self.neutral)

    def path(self, steps: Sequence[Step[float]], measured: bool = False) -> list[Move]:
        return self.denoiser.path(steps, measured)

    def corrected(self, x: Tensor, level: Level[float], cond: Condition | None, noise: Noise) -> Tensor:
        return self.denoiser.corrected(x, level, cond, noise)

    def steps_refused_because(self, steps: int) -> str | None:
        """Return a sentence why guided sampling cannot take this number of steps, and what to type; None if it can."""
        return None

    @property
    def described(self) -> str:
        """Return the guidance in words for the titles of pictures, such as ``ClassifierFreeGuidance of scale 2``."""
        scale = f"{self._scales[0]:g}"
        if len(self._scales) > 1:
            scale = f"{self._scales[-1]:g} to {self._scales[0]:g}"
        return f"{type(self).__name__} of scale {scale}"

    def score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        """Return the guided score, (B, ...), by its formula from exact scores; None if the guidance has no formula.

        Subclasses with a formula override it. ``verify.py`` compares it with the score that the guided denoiser gives.

        Args:
            exact: a function ``exact(x_t, t, cond)`` that returns the score of the noisy data's density at t given a
                condition, or of all data for ``cond=None``, (B, ...).
            x_t: noisy samples, (B, ...).
            t: their times, (B,).
            cond: the condition of each sample.
        """
        return None

    def inner_score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        """Return the exact score of the wrapped denoiser, (B, ...), for the arguments of :meth:`score`.

        It is ``exact(x_t, t, cond)`` if that denoiser is not guided, else the result of its own :meth:`score`.
        """
        if isinstance(self.denoiser, Guidance):
            return self.denoiser.score(exact, x_t, t, cond)
        return exact(x_t, t, cond)


def guidances_of(denoiser: Denoiser) -> list[Guidance]:
    """Return the guidances that a denoiser consists of, the outermost first; an empty list for an unguided one."""
    found = []
    while isinstance(denoiser, Guidance):
        found.append(denoiser)
        denoiser = denoiser.denoiser
    return found
