"""Distances between distributions, and slopes of curves."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of log y over log x, for positive numbers; NaN for fewer than two points."""
    if len(x) < 2:
        return math.nan
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())


def wasserstein(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    r"""Return the 2-Wasserstein distance W between two Gaussians.

    .. math:: W^2 = |\mu_a - \mu_b|^2 + \mathrm{tr}(A + B - 2 (B^{1/2} A B^{1/2})^{1/2})

    Args:
        mean_a, mean_b: the means, (D,).
        cov_a, cov_b: the covariances A and B, (D, D).
    """

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT

    root_b = root(cov_b)
    square = (mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * root(root_b @ cov_a @ root_b)).trace()
    return float(square.clamp(min=0).sqrt())


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 32) -> float:
    """Return the sliced 2-Wasserstein distance between two sets of N points in the plane.

    It is the root mean square, over lines, of the 2-Wasserstein distance between the projections of both onto a line.

    Args:
        a, b: the points, (N, 2) each.
        directions: the number of lines, with angles evenly spaced over half a turn.
    """
    angle = math.pi * torch.arange(directions, dtype=a.dtype) / directions
    lines = torch.stack([angle.cos(), angle.sin()])  # (2, K)
    return float(((a @ lines).sort(0).values - (b @ lines).sort(0).values).square().mean().sqrt())
