"""Reads what a picture of ``shapes`` shows back from its pixels, so that how well samples follow their captions can be measured."""

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

LATTICE = 32  # centres are tried this many to the side: half a pixel of 16
NEWTON_STEPS = 2
AT_ONCE = 64  # images: what templates answer for more does not stay in the cache

# The palettes as x, and how near a fitted colour must be to count: less than half of the way between any two.
_COLOURS, _BACKGROUNDS = ((table * 2 / (LEVELS - 1) - 1).float() for table in (PALETTE, BACKDROPS))
_TOLERANCE = torch.pdist(torch.cat([_COLOURS, _BACKGROUNDS])).min().item() / 2
# Energy of a shape, see Fit: half of what the weakest explains, a small green cross on dark grey, 4.7. Measured at 16 pixels on some
# thousand images each: what remains of one shape holds at most 0.3, with noise of standard deviation 0.1 and 0.2 at most 0.5 and 1.3;
# what remains where there are two apart from each other, at least 4.7.
A_SHAPE = 2.4


class Reading(NamedTuple):
    """What images show, each (B,)."""

    shape: Tensor  # int64, and so the next three
    colour: Tensor
    position: Tensor
    size: Tensor
    found: Tensor  # bool: there is one shape, in a known colour on a known background; if not, the others mean little


class Fit(NamedTuple):
    """The scene whose picture is nearest to each image, and what it leaves unexplained. Energies are sums over channels of squared
    deviations from the mean, times 256 / (H W), so that they mean the same at every size."""

    shape: Tensor  # (B,) int64
    centre: Tensor  # (B, 2) float64, fractions of the side
    radius: Tensor  # (B,) float64
    colour: Tensor  # (B, 3), fitted, in [-1, 1] for a clean image
    background: Tensor  # (B, 3)
    explained: Tensor  # (B,) energy of the shape
    second: Tensor  # (B,) the largest energy that another shape explains of what remains


def read(x: Tensor) -> Reading:
    """Shape, colour, position and size of what images (B, 3, H, W) in [-1, 1] show, on the CPU.

    Found is what explains at least :data:`A_SHAPE` of the image, in two colours of the palettes, and leaves nothing behind that looks like
    another shape.
    """
    found = fit(x)
    off_colour, colour = torch.cdist(found.colour, _COLOURS).min(1)
    off_background, _ = torch.cdist(found.background, _BACKGROUNDS).min(1)
    position = torch.cdist(found.centre, CENTRES).argmin(1)
    size = (found.radius[:, None] - RADII).abs().argmin(1)
    known = (off_colour < _TOLERANCE) & (off_background < _TOLERANCE)
    return Reading(found.shape, colour, position, size, known & (found.explained > A_SHAPE) & (found.second < A_SHAPE))


def fit(x: Tensor) -> Fit:
    """Least squares over shape, centre, radius and any two colours.

    With the colours free, an image's residual under a mask m is its energy less sum_c <x_c, m>^2 / |m|^2 (both less their means), so the
    best of a lattice of masks is one matrix product; Gauss-Newton steps then refine centre and radius.
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
    """The colour of the shape less that of the background, (B, 3), by least squares; ``mask`` (B, P) has mean 0."""
    return torch.einsum("bcp,bp->bc", x, mask) / mask.square().sum(1, keepdim=True)


def _refined(x: Tensor, shape: Tensor, centre: Tensor, radius: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """One Gauss-Newton step in (x, y, radius), at most half a cell of the lattice."""
    at, delta = torch.cat([centre, radius[:, None]], 1), 0.1 / size  # (B, 3)
    moved = at + delta * torch.eye(3, dtype=at.dtype)[:, None]  # (3, B, 3)
    mask, *others = (
        m - m.mean(1, keepdim=True) for m in (_masks(shape, p[:, :2], p[:, 2], size) for p in (at, *moved))
    )
    slopes = torch.stack([(m - mask) / delta for m in others], 1)  # (B, 3, P)
    contrast = _contrast(x, mask)
    wrong = torch.einsum("bcp,bc->bp", x, contrast) - contrast.square().sum(1, keepdim=True) * mask  # (B, P)
    normal = contrast.square().sum(1)[:, None, None] * (slopes @ slopes.mT)
    ridge = torch.eye(3) * 1e-6  # a flat image has no slope
    step = torch.linalg.solve(normal + ridge, slopes @ wrong[:, :, None])[:, :, 0]
    at = at + step.clamp(-0.5 / LATTICE, 0.5 / LATTICE)
    return at[:, :2], at[:, 2]


def _energies(x: Tensor, masks: Tensor) -> Tensor:
    """How much of the energy of images (B, 3, P) each of (T, P) unit masks explains, (B, T)."""
    return (x @ masks.T).square_().sum(1)


def _masks(shape: Tensor, centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """(B, P) float32."""
    return _pooled(coverage(shape, centre, radius, size)[:, None]).flatten(1).float()


def _pooled(x: Tensor) -> Tensor:
    """Images at 16 to 31 pixels: more would cost time and tell no more."""
    factor = x.shape[-1] // 16
    return x if factor == 1 else functional.avg_pool2d(x, factor)


@functools.lru_cache(maxsize=4)  # 30 ms of each batch that is read
def _lattice(size: int) -> tuple[Tensor, Tensor]:
    """What is tried, (T, 4): shape, radius, x, y; and its masks (T, P), of mean 0 and norm 1."""
    centres = torch.arange(LATTICE // 4, LATTICE * 3 // 4 + 1, dtype=torch.float64) / LATTICE
    tried = torch.cartesian_prod(torch.arange(len(SHAPES), dtype=torch.float64), RADII, centres, centres)
    masks = torch.cat([_masks(p[:, 0].long(), p[:, 2:], p[:, 1], size) for p in tried.split(256)])
    return tried, functional.normalize(masks - masks.mean(1, keepdim=True), dim=1)
