r"""The Frechet distance of two Gaussians, by eigenvalues of a symmetric matrix in float64.

For means :math:`\mu` and covariances :math:`\Sigma` of real (1) and generated (2) features it is

.. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}).

The product :math:`\Sigma_1 \Sigma_2` is not symmetric, and the eigenvalues of such a matrix, which usual codes take,
become complex by rounding if it is singular. The matrix :math:`\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2}` has the same
eigenvalues and is symmetric and positive, so they are real, and those that rounding puts below 0 are 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class FeatureMoments(NamedTuple):
    """The mean and the covariance of features, on which the Frechet distance depends alone.

    Attributes:
        mean: (D,) float64.
        cov: the unbiased covariance, (D, D) float64.
    """

    mean: Tensor
    cov: Tensor


class RealMoments(NamedTuple):
    """The moments of real features, to which Frechet distances are measured.

    Attributes:
        mean: (D,) float64.
        root: the symmetric square root of the covariance, (D, D).
        trace: the trace of the covariance, ().
    """

    mean: Tensor
    root: Tensor
    trace: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "RealMoments":
        """Return the moments of features (M, D).

        Raises:
            FloatingPointError: a feature is NaN or infinite.
            ValueError: the rows are fewer than two.
        """
        return cls.given(moments(features))

    @classmethod
    def given(cls, known: FeatureMoments) -> "RealMoments":
        """Return moments that are known, such as those of a file of reference statistics, with the root that it needs.

        Directions in which the covariance is 0, or by rounding below 0, have the root 0.
        """
        values, vectors = torch.linalg.eigh(known.cov)
        return cls(known.mean, (vectors * values.clamp(min=0).sqrt()) @ vectors.mT, known.cov.trace())

    def distance(self, mean: Tensor, cov: Tensor) -> Tensor:
        """Return the squared Frechet distances of Gaussians with means (..., D) and covariances (..., D, D), (...)."""
        inner = torch.linalg.eigvalsh(self.root @ cov @ self.root).clamp(min=0).sqrt().sum(-1)
        traces = cov.diagonal(dim1=-2, dim2=-1).sum(-1) + self.trace
        return (mean - self.mean).square().sum(-1) + traces - 2 * inner


def moments(features: Tensor) -> FeatureMoments:
    """Return the mean and the unbiased covariance of features (N, D), computed in float64.

    Raises:
        FloatingPointError: a feature is NaN or infinite.
        ValueError: the rows are fewer than two.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, not {len(features)}")
    check_finite(features)
    x, width = features.double(), features.shape[1]
    return FeatureMoments(x.mean(0), x.T.cov().reshape(width, width))  # of one feature it is a number


def check_finite(features: Tensor) -> None:
    """Raise a FloatingPointError if a feature of any of the samples, (N, D), is NaN or infinite.

    A distance of such features would be NaN, or a number without a meaning.
    """
    if bad := int((~features.isfinite().all(1)).sum()):
        raise FloatingPointError(
            f"the features of {bad} of {len(features)} samples are NaN or infinite; the samples are, or the weights of "
            "the network of features"
        )


def frechet_distance(fake: Tensor, real: Tensor) -> float:
    """Return FID, the squared Frechet distance of Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500).

    It does not depend on the order of the rows, but for rounding in float64. If the samples are fewer than the features
    on one side, with the centred features A over (N - 1)^(1/2) of that side, the eigenvalues are those of the N x N
    matrix A Sigma A^T, which are the same ones without zeros.

    Args:
        fake: features of generated samples, (N, D).
        real: features of real samples, (M, D).

    Raises:
        FloatingPointError: a feature is NaN or infinite.
        ValueError: N or M is below 2.
    """
    sides = [(features, moments(features)) for features in (fake, real)]
    (fewer, of_fewer), (_, of_more) = sorted(sides, key=lambda side: len(side[0]))
    if len(fewer) > fewer.shape[1]:
        return float(RealMoments.given(of_more).distance(*of_fewer))
    centred = (fewer.double() - of_fewer.mean) / (len(fewer) - 1) ** 0.5
    inner = torch.linalg.eigvalsh(centred @ of_more.cov @ centred.T).clamp(min=0).sqrt().sum()
    traces = of_fewer.cov.trace() + of_more.cov.trace()
    return float((of_fewer.mean - of_more.mean).square().sum() + traces - 2 * inner)
