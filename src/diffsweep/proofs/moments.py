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
    """Return the exact mean (D,) and covariance (D, D) of the samples that a sampler draws from Gaussian data.

    If sampling stops above t = 0, they are converted to those of x_0: the samples' mean is divided by alpha, and from
    their covariance the noise at that time is subtracted before it is divided by alpha^2.

    Args:
        denoiser: the exact denoiser of the data, which is affine in x_t.
        sampler: the sampler, without clipping, so that its samples are affine in its noise.
        mean, covariance: those of the data, (D,) and (D, D). Sampling that starts below t = 1 starts from such data
            with the noise of that time; at t = 1 it starts from noise alone.
        of_noise: the covariance of the noise, (D, D); None for the identity. See
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
