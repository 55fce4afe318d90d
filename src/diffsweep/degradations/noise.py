r"""Noisy images, for denoising: :math:`x_0 + s \epsilon` with Gaussian noise."""

from torch import Tensor

from diffsweep.degradations.base import Degradation, Range, bounds
from diffsweep.diffusion import Noise, Stream


class GaussianNoise(Degradation):
    r"""A degradation by Gaussian noise, :math:`x_0 + s \epsilon`, which is no measurement: y is not A x_0.

    Args:
        level: s, the standard deviation of the noise of images in [-1, 1]; or a range [low, high] to draw it from for
            each sample.

    Raises:
        ValueError: a negative ``level``.
    """

    random = True

    def __init__(self, level: Range = 0.2) -> None:
        self.low, self.high = bounds("level", level, 0.0, float("inf"))

    def image(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        level = self.low + (self.high - self.low) * self.uniform(noise, 1)[:, :, None, None].to(x)
        assert noise is not None
        return x + level * noise.like(x, Stream.DEGRADATION_NOISE)
