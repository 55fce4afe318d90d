r"""Precision and recall of generated samples, and distances to nearest neighbours, by exact search.

With features a of fake (generated) and b of real samples, and the distance r(a) or r(b) of a point from its k-th
nearest neighbour of the same kind (Kynkaanniemi et al. 2019, arXiv:1904.06991),

.. math:: \mathrm{precision} &= P_a[\,|a - b| \le r(b) \text{ for some } b\,], \\
    \mathrm{recall} &= P_b[\,|a - b| \le r(a) \text{ for some } a\,].

Precision is low if samples look unlike real data, recall if they miss a part of these. Squared distances are computed
in float64 by matrix products, a block of them at a time. In float32, as in the public codes, the distance of two equal
points would not be 0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**22  # distances held at once, 32 MiB
SAME = 1e-12  # of the squared norms: a smaller squared distance is 0; far above float64's rounding, at float32's


def squared_distances(x: Tensor, others: Tensor) -> Tensor:
    """Return |x_i - y_j|^2 of points x (N, D) and others y (M, D), (N, M), in float64.

    A distance below a millionth of (|x_i|^2 + |y_j|^2)^(1/2) is set to 0, since the matrix product leaves a rounding
    error in place of 0. The features of one image that was in two batches are as close as that.
    """
    x, others = x.double(), others.double()
    norms = x.square().sum(1)[:, None] + others.square().sum(1)  # (N, M)
    distances = torch.addmm(norms, x, others.T, alpha=-2)
    return distances.masked_fill_(distances < SAME * norms, 0)


def nearest_distances(x: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean distance of each point x to the nearest of other points, (N,) float64.

    Args:
        x: points of any shape, (N, ...), such as images.
        others: the other points of the same shape in batches, (B, ...).
    """
    x = x.flatten(1)
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for batch in others:
        for rows in _blocks(len(x), max(len(batch), x.shape[1])):  # few large images at once in float64
            distances = squared_distances(x[rows], batch.flatten(1)).amin(1)
            nearest[rows] = torch.minimum(nearest[rows], distances)
    return nearest.sqrt()


class Manifold(NamedTuple):
    """A union of balls around N points, each with the distance of its point from the k-th nearest other one as radius.

    It estimates the support of a distribution by samples of it (arXiv:1904.06991).

    Attributes:
        points: (N, D) float64.
        squared_radii: (N,) float64.
    """

    points: Tensor
    squared_radii: Tensor


def manifold(points: Tensor, neighbours: int, block: int = BLOCK) -> Manifold:
    """Return balls around points that estimate the support of their distribution (arXiv:1904.06991, eq. 1).

    Args:
        points: features of samples of the distribution, (N, D).
        neighbours: k: the radius of a ball is the distance from the k-th nearest other point. Another point at the same
            place counts as a neighbour, the point itself does not.
        block: number of distances held at once.

    Raises:
        ValueError: N is not above k.
    """
    if len(points) <= neighbours:
        raise ValueError(
            f"metrics.neighbours={neighbours} needs more than {neighbours} generated and real images each, "
            f"not {len(points)}; lower it"
        )
    points = points.double()
    radii = [
        squared_distances(points[rows], points).topk(neighbours + 1, largest=False).values.amax(1)
        for rows in _blocks(len(points), len(points), block)
    ]
    return Manifold(points, torch.cat(radii))


def precision_recall(fake: Manifold, real: Manifold, block: int = BLOCK) -> tuple[float, float]:
    """Return precision and recall: the shares of fake points in the real manifold, and of real points in the fake one.

    These are eq. 2 of arXiv:1904.06991. A manifold is a union of balls around points; the surface of a ball belongs to
    it, as in the paper's public code.

    Args:
        fake, real: the manifolds of generated and of real samples, see :func:`manifold`.
        block: number of distances held at once.
    """
    in_real = torch.zeros(len(fake.points), dtype=torch.bool)
    in_fake = torch.zeros(len(real.points), dtype=torch.bool)
    for rows in _blocks(len(fake.points), len(real.points), block):
        distances = squared_distances(fake.points[rows], real.points)
        in_real[rows] = (distances <= real.squared_radii).any(1)
        in_fake |= (distances <= fake.squared_radii[rows, None]).any(0)
    return in_real.double().mean().item(), in_fake.double().mean().item()


def _blocks(rows: int, columns: int, block: int = BLOCK) -> Iterable[slice]:
    """Yield slices of rows whose distances to all columns fit into a block, of at least one row each."""
    size = max(1, block // columns)
    return (slice(begin, begin + size) for begin in range(0, rows, size))
