r"""Read shape, colour, position and size from the pixels of an image of ``dataset=shapes``, by least squares.

An image x is fitted by :math:`x \approx b + (c - b) \, m(k, p, r)`, with the mask m of a shape k of centre p and radius
r, and any two colours c and b. With x and m less their means over pixels, the best contrast :math:`c - b` is
:math:`\langle x, m \rangle / |m|^2` in each channel, which explains the energy

.. math:: E(k, p, r) = \sum_{channels} \langle x, m \rangle^2 / |m|^2

of the image's :math:`|x|^2`. E is maximised over a lattice of masks, then by Gauss-Newton steps in p and r. So whether
generated images follow their captions can be measured.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffsweep.datasets.shapes_scene import (
    BACKDROPS,
    CENTRES,
    LEVELS,
    PALETTE,
    RADII,
    SHAPES,
    coverage,
)

LATTICE = 32  # cells of the lattice of centres along a side: half a pixel of a 16-pixel image
NEWTON_STEPS = 2
AT_ONCE = 64  # images of one pass: the products of more with all masks would not fit into the processor's cache

# The palettes in [-1, 1], and the largest distance at which a fitted colour counts as one of them: half of the least
# distance of two.
_COLOURS, _BACKGROUNDS = ((table * 2 / (LEVELS - 1) - 1).float() for table in (PALETTE, BACKDROPS))
_TOLERANCE = torch.pdist(torch.cat([_COLOURS, _BACKGROUNDS])).min().item() / 2
# The least energy (see Fit) that counts as a shape: half of that of the weakest, 4.7 of a small green cross on dark
# grey. Measured at 16 pixels on some thousand images each, the energy that a second shape explains after the first is
# at most 0.3 in images of one shape, at most 0.5 and 1.3 with noise of standard deviation 0.1 and 0.2, and at least 4.7
# in images of two separate shapes.
A_SHAPE = 2.4


class Reading(NamedTuple):
    """A record of the attributes that were read from the pixels of B images of one coloured shape each.

    Attributes:
        shape, colour, position, size: int64, (B,): numbers in the order of SHAPES, COLOURS, POSITIONS and SIZES.
        found: bool, (B,): one shape in a known colour on a known background was found; else the other fields mean
            little.
    """

    shape: Tensor
    colour: Tensor
    position: Tensor
    size: Tensor
    found: Tensor


class Fit(NamedTuple):
    """A record of the scene (a shape on a background) whose image is nearest to each of B images.

    An energy is the sum over channels and pixels of squared deviations from the mean, times 256 / (H W), so that it
    does not depend on the image size.

    Attributes:
        shape: int64, (B,), the number of the shape.
        centre: float64, (B, 2), x and y as fractions of the side.
        radius: float64, (B,), as a fraction of the side.
        colour, background: (B, 3), the fitted colours, in [-1, 1] for a clean image.
        explained: (B,), the part of the image's energy that the fitted shape explains.
        second: (B,), the largest energy that a second shape explains of the residual.
    """

    shape: Tensor
    centre: Tensor
    radius: Tensor
    colour: Tensor
    background: Tensor
    explained: Tensor
    second: Tensor


def read(x: Tensor) -> Reading:
    """Return the shape, colour, position and size that images (B, 3, H, W) in [-1, 1] show; the results are on the CPU.

    ``found`` is True if the shape of :func:`fit` explains an energy above :data:`A_SHAPE`, its colour and the
    background are near colours of the palettes, and no second shape explains as much of the residual.
    """
    return reading_of(fit(x))


def reading_of(found: Fit) -> Reading:
    """Return the shape, colour, position and size of fitted scenes, as :func:`read` does for their images."""
    off_colour, colour = torch.cdist(found.colour, _COLOURS).min(1)
    off_background, _ = torch.cdist(found.background, _BACKGROUNDS).min(1)
    position = torch.cdist(found.centre, CENTRES).argmin(1)
    size = (found.radius[:, None] - RADII).abs().argmin(1)
    known = (off_colour < _TOLERANCE) & (off_background < _TOLERANCE)
    return Reading(found.shape, colour, position, size, known & (found.explained > A_SHAPE) & (found.second < A_SHAPE))


def fit(x: Tensor) -> Fit:
    """Fit shape, centre, radius, colour and background to images (B, 3, H, W) in [-1, 1], by least squares, on the CPU.

    With the colours free, a mask m (the share of each pixel that a shape covers) leaves a residual of |x|^2 - sum_c
    <x_c, m>^2 / |m|^2 (x and m less their means). So one matrix product finds the best of a lattice of masks, and
    Gauss-Newton steps then refine centre and radius.
    """
    return Fit(*(torch.cat(part) for part in zip(*map(_fit, x.detach().cpu().float().split(AT_ONCE)), strict=True)))


def _fit(x: Tensor) -> Fit:
    size = x.shape[-1]
    tried, masks = _lattice(size)
    x = _pooled(x).flatten(2)  # (B, 3, P)
    mean = x.mean(2, keepdim=True)
    x = x - mean
    best = _energies(x, masks).argmax(1)
    shape, radius, centre = tried[best, 0].long(), tried[best, 1], tried[best, 2:]
    for _ in range(NEWTON_STEPS):
        centre, radius = _refined(x, shape, centre, radius, size)
    mask = _masks(shape, centre, radius, size)  # (B, P)
    cover = mask.mean(1, keepdim=True)
    mask = mask - cover
    contrast = _contrast(x, mask)  # (B, 3)
    remains = x - contrast[:, :, None] * mask[:, None]
    background = mean[:, :, 0] - contrast * cover
    unit = 256 / x.shape[2]
    explained = contrast.square().sum(1) * mask.square().sum(1) * unit
    return Fit(
        shape, centre, radius, background + contrast, background, explained, _energies(remains, masks).amax(1) * unit
    )


def _contrast(x: Tensor, mask: Tensor) -> Tensor:
    """Return the shape's colour less the background's, (B, 3), by least squares; ``mask`` (B, P) has mean 0."""
    return torch.einsum("bcp,bp->bc", x, mask) / mask.square().sum(1, keepdim=True)


def _refined(x: Tensor, shape: Tensor, centre: Tensor, radius: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return centre and radius after one Gauss-Newton step, whose entries are at most half a cell of the lattice."""
    at, delta = torch.cat([centre, radius[:, None]], 1), 0.1 / size  # (B, 3)
    moved = at + delta * torch.eye(3, dtype=at.dtype)[:, None]  # (3, B, 3)
    mask, *others = (
        m - m.mean(1, keepdim=True) for m in (_masks(shape, p[:, :2], p[:, 2], size) for p in (at, *moved))
    )
    slopes = torch.stack([(m - mask) / delta for m in others], 1)  # (B, 3, P)
    contrast = _contrast(x, mask)
    residual = torch.einsum("bcp,bc->bp", x, contrast) - contrast.square().sum(1, keepdim=True) * mask  # (B, P)
    normal = contrast.square().sum(1)[:, None, None] * (slopes @ slopes.mT)
    ridge = torch.eye(3) * 1e-6  # a flat image has no contrast: without it the matrix would be singular
    step = torch.linalg.solve(normal + ridge, slopes @ residual[:, :, None])[:, :, 0]
    at = at + step.clamp(-0.5 / LATTICE, 0.5 / LATTICE)
    return at[:, :2], at[:, 2]


def _energies(x: Tensor, masks: Tensor) -> Tensor:
    """Return the energy of images (B, 3, P) that each of the unit masks (T, P) explains, (B, T)."""
    return (x @ masks.T).square_().sum(1)


def _masks(shape: Tensor, centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """Return the masks of shapes, at the resolution of :func:`_pooled`, flattened, (B, P) float32."""
    return _pooled(coverage(shape, centre, radius, size)[:, None]).flatten(1).float()


def _pooled(x: Tensor) -> Tensor:
    """Return images averaged down to 16 to 31 pixels a side: more pixels would cost time and add little."""
    factor = x.shape[-1] // 16
    return x if factor == 1 else functional.avg_pool2d(x, factor)


@functools.lru_cache(maxsize=4)  # it takes 30 ms
def _lattice(size: int) -> tuple[Tensor, Tensor]:
    """Return the scenes that are tried, (T, 4): shape, radius, x, y; and their masks (T, P) of mean 0 and norm 1."""
    centres = torch.arange(LATTICE // 4, LATTICE * 3 // 4 + 1, dtype=torch.float64) / LATTICE
    tried = torch.cartesian_prod(torch.arange(len(SHAPES), dtype=torch.float64), RADII, centres, centres)
    masks = torch.cat([_masks(p[:, 0].long(), p[:, 2:], p[:, 1], size) for p in tried.split(256)])
    return tried, functional.normalize(masks - masks.mean(1, keepdim=True), dim=1)
