"""The check that stops sampling when x contains a NaN or an infinity."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.schedules import Level


class NotFinite(FloatingPointError):  # noqa: N818 - the name states the fact
    """The error of samples that contain a NaN or an infinity."""


class Watch:
    """A check that raises :class:`NotFinite` when samples contain a NaN or an infinity; it is called after each step.

    Each test waits for the device, so the sums of x are kept on the device and tested every 16 steps and after the last
    step. The message names the first bad step.

    Args:
        steps: the first and the last level of each step, in the order in which the steps are taken.
    """

    EVERY = 16

    def __init__(self, steps: Sequence[tuple[Level[float], Level[float]]]) -> None:
        self.steps = steps
        self.sums: list[Tensor] = []  # a sum is finite if all its terms are, unless they are beyond 1e30

    def __call__(self, x: Tensor) -> None:
        """Record x, (B, ...), at the end of a step, and every 16 steps and after the last one test the recorded steps.

        Raises:
            NotFinite: x contained a NaN or an infinity after one of them.
        """
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
                f"the samples are not finite after step {i + 1} of {len(self.steps)}, from t = {begin.t:.4g} "
                f"(sigma = {begin.sigma:.4g}) to {end.t:.4g}: check the denoiser's output at these times (weights, "
                "precision), or use sampler.clip=static or more steps"
            )
