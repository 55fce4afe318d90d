"""An exact denoiser whose samples are given a fixed measurement, as a denoiser of vectors for exact moments."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from diffsweep.diffusion import Condition, Denoised, Denoiser, Known, Measurement, Move, Noise, Step
from diffsweep.schedules import Level


class Given(Denoiser):
    """An adapter that makes a denoiser of samples of any shape one of vectors (B, D), with a measurement of each.

    Some numbers of all samples are known, with fixed values, and the denoiser gets them as ``cond.known``.

    Args:
        denoiser: the denoiser, with guidance that takes a measurement.
        mask: bool, (D,), True for known numbers.
        values: the values of the known numbers, (D,); others are not read.
        measurement: makes the measurement of a batch of masks, (B, ...), such as ``Frames`` or ``PixelMask``.
        shape: the shape of a sample, of D numbers; (D,) if it is left out.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        mask: Tensor,
        values: Tensor,
        measurement: Callable[[Tensor], Measurement],
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__(denoiser.schedule, denoiser.prediction, denoiser.noise)
        self.denoiser, self.mask, self.values, self.measurement = denoiser, mask, values, measurement
        self.shape = tuple(shape) or tuple(mask.shape)

    def _given(self, count: int) -> Condition:
        """Return the condition of a batch of this size."""
        y = self.values.reshape(self.shape).expand(count, *self.shape)
        return Condition(known=Known(self.measurement(self.mask.expand(count, -1)), y))

    def _shaped(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None) -> Denoised:
        x0, eps, mix = self.denoiser(self._shaped(x_t), t, self._given(len(x_t)))
        return Denoised(x0.flatten(1), eps.flatten(1), mix)

    def path(self, steps: Sequence[Step[float]], measured: bool = False) -> list[Move]:
        return self.denoiser.path(steps, measured=True)

    def corrected(self, x: Tensor, level: Level[Any], cond: Condition | None, noise: Noise) -> Tensor:
        return self.denoiser.corrected(self._shaped(x), level, self._given(len(x)), noise).flatten(1)
