r"""The exact mean and covariance of a sampler's samples, for Gaussian data.

.. math:: x = a + \sum_i R_i z_i, \quad E[x] = a, \quad \mathrm{Cov}[x] = \sum_i R_i R_i^T

The denoiser of Gaussian data is affine in x_t, so a sampler's result x is affine in its first state and in the noise of
its steps, independent standard normal :math:`z_i`. Sampling with unit vectors in place of :math:`z_i` gives a and the
:math:`R_i`.
"""

import torch
from torch import Tensor

from diffsweep.diffusion import Denoiser, Impulses
from diffsweep.samplers import Sampler


def moments(
    denoiser: Denoiser, sampler: Sampler, mean: Tensor, covariance: Tensor, of_noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of the samples of a denoiser that is affine in x_t.

    Args:
        denoiser: the exact denoiser of Gaussian data.
        sampler: the sampler, without clipping.
        mean, covariance: those of the data, (D,) and (D, D); sampling that starts below t = 1 starts from them.
        of_noise: the covariance of the noise, (D, D); the identity by default. See
            :class:`~diffsweep.diffusion.Impulses`.
    """
    with torch.no_grad():
        alpha, sigma = denoiser.schedule(torch.tensor(sampler.start, dtype=torch.float64))
    dimension = len(mean)
    of_noise = torch.eye(dimension, dtype=torch.float64) if of_noise is None else of_noise
    draws = torch.linalg.cholesky(of_noise)
    if sampler.start == 1:  # from the prior
        mean, root = torch.zeros_like(mean), sigma * draws
    else:
        mean = alpha * mean
        root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * of_noise)
    noise = Impulses(dimension, {}, root=draws.T)
    sampler(denoiser, mean[None], noise=noise)  # only to list the draws
    x = mean.repeat(1 + dimension * (1 + len(noise.draws)), 1)
    x[1 : 1 + dimension] += root.T
    x = sampler(denoiser, x, noise=noise)
    response = x[1:] - x[0]
    covariance = response.T @ response
    if sampler.stop > 0:  # to the units of x_0: the covariance of the noise at t = stop is known
        with torch.no_grad():
            alpha, sigma = denoiser.schedule(torch.tensor(sampler.stop, dtype=torch.float64))
        covariance = (covariance - sigma**2 * of_noise) / alpha**2
        return x[0] / alpha, covariance
    return x[0], covariance
