r"""Mean and covariance of a walk's samples of Gaussian data, exact.

The denoiser of Gaussian data is affine in x_t, so a walk is affine in its start and in the noise that its steps draw,
:math:`x = a + \sum_i R_i z_i` with independent standard normal :math:`z_i`. Walks from unit vectors give a and the :math:`R_i`; then
:math:`E[x] = a` and :math:`\mathrm{Cov}[x] = \sum_i R_i R_i^T`.
"""

import torch
from torch import Tensor

from diffsweep.diffusion import Denoiser, Impulses
from diffsweep.samplers import Sampler


def moments(
    denoiser: Denoiser, sampler: Sampler, mean: Tensor, covariance: Tensor, of_noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) of the samples of a denoiser that is affine in x_t.

    Args:
        denoiser: of Gaussian data.
        sampler: without clipping.
        mean, covariance: of the data, (D,) and (D, D), with which a walk starts below t = 1.
        of_noise: the covariance of the noise, (D, D); the identity by default. See :class:`~diffsweep.diffusion.Impulses`.
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
    sampler(denoiser, mean[None], noise=noise)  # only to know what is drawn
    x = mean.repeat(1 + dimension * (1 + len(noise.draws)), 1)
    x[1 : 1 + dimension] += root.T
    x = sampler(denoiser, x, noise=noise)
    response = x[1:] - x[0]
    covariance = response.T @ response
    if sampler.stop > 0:  # back to the data's own units: what is left of the noise is known
        with torch.no_grad():
            alpha, sigma = denoiser.schedule(torch.tensor(sampler.stop, dtype=torch.float64))
        covariance = (covariance - sigma**2 * of_noise) / alpha**2
        return x[0] / alpha, covariance
    return x[0], covariance
