"""The check that stops sampling when x contains a NaN or an infinity."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from diffsweep.layers import Received
from diffsweep.schedules import Level

_later: ContextVar["list[Watch] | None"] = ContextVar("_later", default=None)


class NotFinite(FloatingPointError):  # noqa: N818 - the name states the fact
    """The error of samples that contain a NaN or an infinity."""


class Watch:
    """A check that raises :class:`NotFinite` when samples contain a NaN or an infinity; it is called after each step.

    The sums of x are kept on the device, and every 16 steps they are copied to the CPU. On a GPU a test would wait for
    all that is queued, so a copy is tested when the next one is begun, and the last one by :meth:`finish`. The message
    names the first bad step.

    Args:
        steps: the first and the last level of each step, in the order in which the steps are taken.
    """

    EVERY = 16

    def __init__(self, steps: Sequence[tuple[Level[float], Level[float]]]) -> None:
        self.steps = steps
        self._sums: list[Tensor] = []  # since the last copy; a sum is finite if all its terms are, unless beyond 1e30
        self._copied: tuple[int, Received] | None = None  # the number of the first step of the copy, and its sums
        self._count = 0

    def __call__(self, x: Tensor) -> None:
        """Record x, (B, ...), at the end of a step, and every 16 steps test recorded steps.

        Raises:
            NotFinite: x contained a NaN or an infinity after one of them.
        """
        self._sums.append(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)))
        self._count += 1
        if len(self._sums) == self.EVERY or self._count == len(self.steps):
            self._test()
            self._copied = self._count - len(self._sums), Received(torch.stack(self._sums))
            self._sums = []
            if x.device.type != "cuda":
                self._test()

    def finish(self) -> None:
        """Test the steps that are not tested yet, after the last step; within :func:`tested_later` after its block.

        Raises:
            NotFinite: x contained a NaN or an infinity after one of them.
        """
        if (watches := _later.get()) is not None:
            watches.append(self)
        else:
            self._test()

    def _test(self) -> None:
        if self._copied is None:
            return
        (first, received), self._copied = self._copied, None
        bad = [not math.isfinite(value) for value in received.wait().tolist()]
        if any(bad):
            i = first + bad.index(True)
            begin, end = self.steps[i]
            raise NotFinite(
                f"the samples are not finite after step {i + 1} of {len(self.steps)}, from t = {begin.t:.4g} "
                f"(sigma = {begin.sigma:.4g}) to {end.t:.4g}: check the denoiser's output at these times (weights, "
                "precision), or use sampler.clip=static or more steps"
            )


@contextmanager
def tested_later() -> Iterator[list[Watch]]:
    """Let sampling in a ``with`` block end without waiting for the device to test its last steps.

    The block gets a list of checks; after the block each must be finished (:meth:`Watch.finish`) when the samples are
    at hand.
    """
    watches: list[Watch] = []
    token = _later.set(watches)
    try:
        yield watches
    finally:
        _later.reset(token)
