"""Nearest neighbours in a space of features or of pixels: precision and recall of samples, and how close copies are.

Distances are squared and taken in float64 by one matrix product, with a block of them in memory at a time.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**22  # distances held at once, 32 MiB
SAME = 1e-12  # of the squared norms: far above the product's rounding, at the resolution of float32


def squared_distances(x: Tensor, others: Tensor) -> Tensor:
    """|x_i - y_j|^2 of x (N, D) and others (M, D), (N, M), in float64.

    Points closer than a millionth of their norms are at distance 0, where the product would leave its rounding: so close
    are the features of one image that was in two batches.
    """
    x, others = x.double(), others.double()
    norms = x.square().sum(1)[:, None] + others.square().sum(1)  # (N, M)
    distances = torch.addmm(norms, x, others.T, alpha=-2)
    return distances.masked_fill_(distances < SAME * norms, 0)


def nearest_distances(x: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Euclidean distance of each x (N, ...) to the nearest of others, which come in batches (B, ...); (N,), in float64."""
    x = x.flatten(1)
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for batch in others:
        for rows in _blocks(len(x), max(len(batch), x.shape[1])):  # large images are not all held in float64
            distances = squared_distances(x[rows], batch.flatten(1)).amin(1)
            nearest[rows] = torch.minimum(nearest[rows], distances)
    return nearest.sqrt()


class Manifold(NamedTuple):
    """The union of balls around points (N, D), each as far as the point's k-th nearest neighbour: :func:`manifold`."""

    points: Tensor
    squared_radii: Tensor


def manifold(points: Tensor, neighbours: int, block: int = BLOCK) -> Manifold:
    """An estimate of where a distribution has its support (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1).

    Args:
        points: of the distribution, (N, D).
        neighbours: k. A point is not its own neighbour; another at the same place is one.
        block: distances held at once.

    Raises:
        ValueError: there are not more points than neighbours.
    """
    if len(points) <= neighbours:
        raise ValueError(f"metrics.neighbours={neighbours} needs more images than {len(points)}, on both sides")
    points = points.double()
    radii = [
        squared_distances(points[rows], points).topk(neighbours + 1, largest=False).values.amax(1)
        for rows in _blocks(len(points), len(points), block)
    ]
    return Manifold(points, torch.cat(radii))


def precision_recall(fake: Manifold, real: Manifold, block: int = BLOCK) -> tuple[float, float]:
    """The share of the fake points that lie in the real manifold, and of the real points that lie in the fake one
    (arXiv:1904.06991, eq. 2). The surface of a ball belongs to it, as in the paper's public code."""
    in_real = torch.zeros(len(fake.points), dtype=torch.bool)
    in_fake = torch.zeros(len(real.points), dtype=torch.bool)
    for rows in _blocks(len(fake.points), len(real.points), block):
        distances = squared_distances(fake.points[rows], real.points)
        in_real[rows] = (distances <= real.squared_radii).any(1)
        in_fake |= (distances <= fake.squared_radii[rows, None]).any(0)
    return in_real.double().mean().item(), in_fake.double().mean().item()


def _blocks(rows: int, columns: int, block: int = BLOCK) -> Iterable[slice]:
    """Slices of rows whose distances to all columns fit into a block; at least one row each."""
    size = max(1, block // columns)
    return (slice(begin, begin + size) for begin in range(0, rows, size))
