r"""The uncertainty of FID and KID: intervals by resampling, standard errors, and FID extrapolated to infinite samples.

FID depends on the features of samples through their mean and covariance alone, so each resample of the bootstrap (Efron
1979) costs two moments and the eigenvalues of a D x D matrix. FID is biased: with n samples its expectation is

.. math:: E[\mathrm{FID}_n] = \mathrm{FID}_\infty + c / n + O(1 / n^2),

with a constant c > 0 that differs between models (Chong and Forsyth 2020, arXiv:1911.07023). An interval is of
:math:`\mathrm{FID}_n`, the value of other n samples; :func:`frechet_at_infinity` fits the line over 1 / n. The
reference, the real features, is fixed throughout.
"""

import torch
from torch import Tensor

from diffsweep.metrics.frechet import RealMoments, moments

STANDARD_ERRORS = 1.96  # on each side of a value, for an interval of 95 %
LEAST_OF_FEATURES = 3  # samples of a subset for each feature: the line over 1 / n needs enough of them
BLOCK = 2**24  # numbers of a batch of matrices, 128 MiB


def resampled(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means (B, D) and covariances (B, D, D) of features in which each row counts several times.

    Args:
        features: (N, D) float64.
        counts: how often each row counts in each of B sets, (B, N) float64.
    """
    size = counts.sum(1)
    mean = counts @ features / size[:, None]
    weighted = torch.empty_like(features)  # one for all sets: new ones of many samples are not given back in between
    second = features.new_empty(len(counts), features.shape[1], features.shape[1])
    for weight, product in zip(counts, second, strict=True):
        torch.mm(torch.mul(features, weight[:, None], out=weighted).mT, features, out=product)
    outer = mean[:, :, None] * mean[:, None]
    return mean, (second - size[:, None, None] * outer) / (size[:, None, None] - 1)


def frechet_error(fake: Tensor, real: Tensor, resamples: int) -> float:
    r"""Return the standard error of FID of generated features against a fixed reference, by the bootstrap.

    It is the standard deviation of FID over other samples of the same number. A resample moves the moments (mu, Sigma)
    by some d. As a function of d, FID has a part o(d) that is odd and a part e(d) that is even, both found from the
    resample and its mirror image -d. To second order the variance sought is Var(o) - Var(e), with Var(e) at most half
    of Var(o): a plain bootstrap, Var(o) + Var(e), is too large if samples are as good as real data, up to threefold.

    Args:
        fake: features of generated samples, (N, D).
        real: features of real samples, (M, D).
        resamples: number of resamples.
    """
    x, reference = fake.double(), RealMoments.of(real)
    mean, cov = moments(x)
    at_hand = reference.distance(mean, cov)
    odd, even = torch.empty(2, resamples, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for rows in torch.arange(resamples).split(max(1, BLOCK // max(len(x), cov.numel()))):
        drawn = torch.randint(len(x), (len(rows), len(x)), generator=generator)
        counts = torch.zeros(len(rows), len(x), dtype=torch.float64)
        moved_mean, moved_cov = resampled(x, counts.scatter_add_(1, drawn, torch.ones_like(counts)))
        plus = reference.distance(moved_mean, moved_cov)
        minus = reference.distance(2 * mean - moved_mean, 2 * cov - moved_cov)
        odd[rows], even[rows] = (plus - minus) / 2, (plus + minus) / 2 - at_hand
    return float((odd.var() - torch.minimum(even.var(), odd.var() / 2)).sqrt())


def frechet_at_infinity(fake: Tensor, real: Tensor, points: int = 15, orders: int = 10) -> float:
    """Return FID extrapolated to infinitely many generated samples, FID_infinity (arXiv:1911.07023, section 3).

    FID of random subsets, of ``points`` sizes from a fifth of the samples (and at least three for each feature) to all,
    is fitted by a line over 1 / size; the value at 0 is returned. It removes the bias of few generated samples, not
    that of few real ones, and can be below 0 by chance. The subsets are the same in every call.

    Args:
        fake: features of generated samples, (N, D).
        real: features of real samples, (M, D).
        points: number of sizes.
        orders: number of random orders of the samples, whose first rows are the subsets; FID is averaged over them.

    Raises:
        ValueError: the samples are fewer than :func:`fewest_at_infinity` of D.
    """
    x, reference = fake.double(), RealMoments.of(real)
    if len(x) < fewest_at_infinity(x.shape[1]):
        raise ValueError(
            f"metrics.infinity=true extrapolates from subsets and needs at least {fewest_at_infinity(x.shape[1])} "
            f"samples with {x.shape[1]} features, not {len(x)}; raise num_samples, or set metrics.infinity=false"
        )
    sizes = torch.linspace(max(len(x) / 5, LEAST_OF_FEATURES * x.shape[1]), len(x), points).round().long()
    found = torch.zeros(points, dtype=torch.float64)
    for order in range(orders):
        shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(order))]
        subsets = [shuffled[:size] for size in sizes]
        found += torch.stack([reference.distance(*moments(subset)) for subset in subsets]) / orders
    inverse = 1 / sizes.double()
    slope = ((inverse - inverse.mean()) * found).sum() / (inverse - inverse.mean()).square().sum()
    return float(found.mean() - slope * inverse.mean())


def fewest_at_infinity(num_features: int) -> int:
    """Return the fewest samples from which FID is extrapolated: six for each feature."""
    return 2 * LEAST_OF_FEATURES * num_features


def kernel_error(fake: Tensor, real: Tensor, most: int = 2000) -> float:
    """Return the standard error of KID over all generated samples against a fixed reference, by the jackknife.

    Of more than ``most`` samples as many are taken at random, and their error is divided by the square root of the
    ratio. The error is too large, by up to the square root of 2, if samples are as good as real data.

    Args:
        fake: features of generated samples, (N, D), at least 3.
        real: features of real samples, (M, D).
        most: the most samples of each kind whose kernels are computed.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = (part[torch.randperm(len(part), generator=generator)[:most]].double() for part in (fake, real))
    size, width = x.shape
    own = (x @ x.T / width + 1) ** 3
    within = own.sum(1) - own.diagonal()
    across = ((x @ y.T / width + 1) ** 3).mean(1)
    left_out = (within.sum() - 2 * within) / ((size - 1) * (size - 2)) - 2 * (across.sum() - across) / (size - 1)
    return float(((size - 1) * left_out.var(correction=0) * size / len(fake)).sqrt())
