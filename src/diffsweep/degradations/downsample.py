"""Images of fewer pixels, for super-resolution: y = A x_0 has 1/f of the side of x_0."""

from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.degradations.base import LinearDegradation, one_of
from diffsweep.diffusion import Known, Measurement, Noise, Separable, SquareMeans

Method = Literal["area", "bicubic", "nearest"]
Enlargement = Literal["bicubic", "bilinear", "nearest"]
_MODES = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest-exact"}


class Downsampling(LinearDegradation):
    """A degradation to images of 1/f of the side, which a network reads enlarged to the sample's size again.

    Args:
        factor: f, at least 2, which divides the image's side.
        method: how images are made smaller. ``area``: the mean of each square of f x f pixels; ``bicubic``: by the
            cubic kernel, widened by f so that no higher frequencies alias, as Pillow does; ``nearest``: the middle
            pixel of each square.
        enlarge: how small images are enlarged for the network: ``bicubic`` as in SR3 (arXiv:2104.07636), ``bilinear``,
            or ``nearest``.

    Raises:
        ValueError: an unknown name, or a factor below 2.
    """

    def __init__(self, factor: int = 2, method: Method = "area", enlarge: Enlargement = "bicubic") -> None:
        if factor < 2:
            raise ValueError(f"degradation.factor must be at least 2, not {factor}")
        one_of("method", method, get_args(Method))
        one_of("enlarge", enlarge, get_args(Enlargement))
        self.factor, self.method, self.enlarge = factor, method, enlarge
        self.side_multiple = factor

    def check(self, channels: int, image_size: int) -> None:
        if image_size % self.factor or image_size == self.factor:
            raise ValueError(
                f"degradation.factor={self.factor} does not divide the image's {image_size} pixels into several; use a "
                f"smaller divisor of {image_size}"
            )

    def measurement(self, x: Tensor, noise: Noise | None = None) -> Measurement:
        if self.method == "area":
            return SquareMeans(self.factor)
        return _smaller(*x.shape[-2:], self.factor, self.method)

    def degraded_side(self, image_size: int) -> int:
        return image_size // self.factor

    def given(self, images: Tensor) -> tuple[Tensor, Known | None]:
        height, width = (side * self.factor for side in images.shape[-2:])
        known = Known(self.measurement(images.new_empty(len(images), 1, height, width)), images)
        return self.picture(known), known

    def picture(self, known: Known) -> Tensor:
        size = [side * self.factor for side in known.y.shape[-2:]]
        return functional.interpolate(known.y, size=size, mode=_MODES[self.enlarge])


@cache
def _smaller(height: int, width: int, factor: int, method: str) -> Separable:
    """Return the measurement by which torch's interpolation makes images smaller."""
    return Separable(_matrix(height, factor, method), _matrix(width, factor, method))


def _matrix(side: int, factor: int, method: str) -> Tensor:
    """Return the weights of the pixels of a line of n pixels in those of the smaller line, (1, n / factor, n)."""
    columns = torch.eye(side, dtype=torch.float64)[None, None]  # as an image, made smaller along its columns alone
    size = (side // factor, side)
    return functional.interpolate(columns, size=size, mode=_MODES[method], antialias=method == "bicubic")[0]
