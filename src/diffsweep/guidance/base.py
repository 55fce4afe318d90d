r"""Guidance is a denoiser around a denoiser, :math:`\tilde D(x_t, t, y) = D(x_t, t, y) + s(t) \, \Delta(x_t, t, y)`, whose scale s may change with t."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.diffusion import Condition, Denoiser, PlainDenoiser, as_denoiser, expand_to

Shape = Literal["constant", "linear", "cosine"]
ExactScore = Callable[[Tensor, Tensor, Condition | None], Tensor]
_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {  # of mean 1 over t
    "constant": torch.ones_like,
    "linear": lambda t: 2 * (1 - t),
    "cosine": lambda t: 1 + torch.cos(math.pi * t),
}


class Guidance(Denoiser, Part):
    r"""A denoiser that changes the estimates of another one, which may be guided itself.

    The scale at t is ``scale`` within ``interval`` and ``neutral`` outside. With a shape it is
    :math:`n + (s - n) w(t)` with the neutral scale n and weights w of mean 1 that grow towards the data: ``linear`` 2 (1 - t),
    ``cosine`` 1 + cos(pi t) (Wang et al. 2024, arXiv:2404.13040). A list has one scale for each step, from noise to data.

    Args:
        denoiser: the denoiser that is guided; a plain object with ``schedule`` and ``__call__`` will do.
        scale: s, or a list of scales.
        shape: the shape of s over t.
        interval: the times (least, most) that are guided (Kynkaanniemi et al. 2024, arXiv:2404.07724, in t instead of sigma).
        times: the times of the sampler's steps, (steps + 1,), from its start down; only a list of scales needs them.

    Attributes:
        neutral: the scale at which the denoiser is left as it is.
        requires: a ``condition`` to guide by; the parts of it that guidance itself uses, so that the network need not take them; a
            ``null_condition`` where it asks the network for that.
        exact_on_gaussians: whether samples given a measurement are those of the conditional Gaussian, where the data are Gaussian.
    """

    neutral: float = 1.0
    requires = frozenset({"condition"})
    exact_on_gaussians: bool = False

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
        self._ends: list[float] = []  # times, up, where the scale changes to that of the step before
        if not isinstance(scale, int | float):
            if times is None:
                raise ValueError("a list of scales is one for each step: it needs the times of the walk")
            if len(scales) != len(times) - 1:
                raise ValueError(
                    f"guidance.scale has {len(scales)} values, and the walk has {len(times) - 1} steps: one is needed for each "
                    "(sampler.steps), or a number for all"
                )
            if shape != "constant":
                raise ValueError("a list of scales has its own shape; leave guidance.shape=constant")
            self._ends = [float(time) for time in times.flip(0)[1:-1]]
            self._scales = scales[::-1]

    def scale_at(self, t: Tensor) -> float | Tensor:
        """Return the scale at a time () as a number, at times (B,) as a tensor like them."""
        if t.ndim == 0 and t.device.type == "cpu":
            return float(self._scale_of(t.double()[None])[0]) if self._varies else self._scales[0]
        return self._scale_of(t)

    def scale_on(self, x_t: Tensor, t: Tensor) -> float | Tensor:
        """Return :meth:`scale_at` so that it multiplies ``x_t``."""
        scale = self.scale_at(t)
        return expand_to(scale, x_t) if isinstance(scale, Tensor) else scale

    @property
    def _varies(self) -> bool:
        return self.shape != "constant" or len(self._scales) > 1 or (self.least, self.most) != (0.0, 1.0)

    def _scale_of(self, t: Tensor) -> Tensor:
        if len(self._scales) > 1:
            rows = [bisect_left(self._ends, time) for time in t.tolist()]
            scale = torch.tensor([self._scales[row] for row in rows], dtype=t.dtype, device=t.device)
        else:
            scale = self.neutral + (self._scales[0] - self.neutral) * _SHAPES[self.shape](t)
        return torch.where((t >= self.least) & (t <= self.most), scale, self.neutral)

    def score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        """Return the guided score by its formula, where the scores of the data are known; None where it has no such formula.

        Args:
            exact: the score of x_t at t (B,) under a condition; None for all data.
            x_t, t, cond: (B, ...), (B,), and the condition of each row.
        """
        return None

    def inner_score(self, exact: ExactScore, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor | None:
        """Return the score of the denoiser that is guided; the arguments are those of :meth:`score`."""
        if isinstance(self.denoiser, Guidance):
            return self.denoiser.score(exact, x_t, t, cond)
        return exact(x_t, t, cond)


def guidances_of(denoiser: Denoiser) -> list[Guidance]:
    """Return the guidances around a denoiser, from the outermost in."""
    found = []
    while isinstance(denoiser, Guidance):
        found.append(denoiser)
        denoiser = denoiser.denoiser
    return found
