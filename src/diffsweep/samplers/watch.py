"""Stops a walk that is not finite any more."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.schedules import Level


class NotFinite(FloatingPointError):  # noqa: N818 - says what happened
    """A walk has come to a NaN or an infinity."""


class Watch:
    """Stops a walk that is not finite any more. It looks every few steps: each look waits for the device.

    Args:
        steps: from which level to which, in the order in which they are taken.
    """

    EVERY = 16

    def __init__(self, steps: Sequence[tuple[Level[float], Level[float]]]) -> None:
        self.steps = steps
        self.sums: list[Tensor] = []  # a sum is finite where all terms are, unless they are beyond 1e30

    def __call__(self, x: Tensor) -> None:
        """Take note of x after a step."""
        self.sums.append(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)))
        count = len(self.sums)
        if count % self.EVERY and count < len(self.steps):
            return
        first = count - (count - 1) % self.EVERY - 1
        bad = [not math.isfinite(value) for value in torch.stack(self.sums[first:]).tolist()]
        if any(bad):
            i = first + bad.index(True)
            begin, end = self.steps[i]
            raise NotFinite(
                f"the walk is not finite after step {i + 1} of {len(self.steps)}, from t = {begin.t:.4g} (sigma = {begin.sigma:.4g}) to "
                f"{end.t:.4g}: look at the denoiser's output there (weights, precision), or use sampler.clip=static or more steps"
            )
