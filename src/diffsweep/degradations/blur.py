r"""Images blurred by a Gaussian, :math:`y = G X G^T` with :math:`G_{ij} \propto \exp(-(i - j)^2 / 2 s^2)`."""

import torch
from torch import Tensor

from diffsweep.degradations.base import LinearDegradation, Range, bounds
from diffsweep.diffusion import Known, Measurement, Noise, Separable
from diffsweep.diffusion.separable import without_small_values

WIDTHS = 64  # values of s in a range


class Blur(LinearDegradation):
    """A degradation by a Gaussian blur, whose weights at the edges are those of the pixels inside, made to sum to 1.

    Singular values of G below 1 % of the largest are 0, so that A can be inverted in float32.

    Args:
        sigma: s, the standard deviation in pixels, above 0; or a range [low, high] to draw it from for each sample.
            It is then one of 64 equally spaced values from low to high, so that the matrices are made once and not in
            each training step.

    Raises:
        ValueError: a ``sigma`` that is not above 0.
    """

    def __init__(self, sigma: Range = 1.0) -> None:
        self.low, self.high = bounds("sigma", sigma, 1e-3, float("inf"))
        self.random = self.low < self.high
        self.widths = torch.linspace(self.low, self.high, WIDTHS if self.random else 1, dtype=torch.float64)
        self._matrices: dict[int, Tensor] = {}  # by the side of the images, those of all widths, (widths, n, n)

    def measurement(self, x: Tensor, noise: Noise | None = None) -> Measurement:
        rows, columns = (self.matrices(side) for side in x.shape[-2:])
        if self.random:
            drawn = (self.uniform(noise, 1)[:, 0] * WIDTHS).long().to(rows.device)
            rows, columns = rows[drawn], columns[drawn]
        return Separable(rows, columns, shared=not self.random)

    def matrices(self, side: int) -> Tensor:
        """Return the matrices G of lines of ``side`` pixels for all values of s, float64, (values, side, side)."""
        if side not in self._matrices:
            self._matrices[side] = _gaussian(side, self.widths)
        return self._matrices[side]

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        return images, None if self.random else Known(self.measurement(images), images)

    def picture(self, known: Known) -> Tensor:
        return known.y


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    """Return the matrices G of a line of n pixels for standard deviations (B,), float64, (B, n, n)."""
    at = torch.arange(side, dtype=torch.float64, device=sigma.device)
    weights = (-((at[:, None] - at) ** 2) / (2 * sigma[:, None, None] ** 2)).exp()
    return without_small_values(weights / weights.sum(-1, keepdim=True))
