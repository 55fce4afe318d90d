r"""Images blurred by a Gaussian, :math:`y = G X G^T` with :math:`G_{ij} \propto \exp(-(i - j)^2 / 2 s^2)`."""

import torch
from torch import Tensor

from diffsweep.degradations.base import LinearDegradation, Range, bounds
from diffsweep.diffusion import Known, Measurement, Noise, Separable
from diffsweep.diffusion.separable import without_small_values


class Blur(LinearDegradation):
    """A degradation by a Gaussian blur, whose weights at the edges are those of the pixels inside, made to sum to 1.

    Singular values of G below 1 % of the largest are 0, so that A can be inverted in float32.

    Args:
        sigma: s, the standard deviation in pixels, above 0; or a range [low, high] to draw it from for each sample.

    Raises:
        ValueError: a ``sigma`` that is not above 0.
    """

    def __init__(self, sigma: Range = 1.0) -> None:
        self.low, self.high = bounds("sigma", sigma, 1e-3, float("inf"))
        self.random = self.low < self.high

    def measurement(self, x: Tensor, noise: Noise | None = None) -> Measurement:
        sigma = torch.tensor([self.low], dtype=torch.float64)
        if self.random:
            sigma = self.low + (self.high - self.low) * self.uniform(noise, 1)[:, 0].double()
        rows, columns = (_gaussian(side, sigma) for side in x.shape[-2:])
        return Separable(rows, columns, shared=not self.random)

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        return images, None if self.random else Known(self.measurement(images), images)

    def picture(self, known: Known) -> Tensor:
        return known.y


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    """Return the matrices G of a line of n pixels for standard deviations (B,), float64, (B, n, n)."""
    at = torch.arange(side, dtype=torch.float64, device=sigma.device)
    weights = (-((at[:, None] - at) ** 2) / (2 * sigma[:, None, None] ** 2)).exp()
    return without_small_values(weights / weights.sum(-1, keepdim=True))
