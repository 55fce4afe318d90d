"""The exact denoisers agree with the score of the log-density, by automatic differentiation."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffsweep.diffusion import GaussianDenoiser, GaussianMixtureDenoiser, V
from diffsweep.schedules import Cosine, Linear

TIMES = [0.001, 0.05, 0.3, 0.7, 1.0]


def log_density(means, covariances, weights, alpha, sigma):
    """Return the log-density of x_t as a function, by torch.distributions."""
    marginal = MultivariateNormal(alpha * means, alpha**2 * covariances + sigma**2 * torch.eye(means.shape[1]).double())
    return MixtureSameFamily(Categorical(weights), marginal).log_prob


def parts(components=3, dimension=4):
    roots = torch.randn(components, dimension, dimension, dtype=torch.float64) / 2
    means = torch.randn(components, dimension, dtype=torch.float64)
    return means, roots @ roots.mT, torch.rand(components, dtype=torch.float64) + 0.1


@pytest.mark.parametrize("t", TIMES)
def test_eps_is_minus_sigma_times_the_score(t):
    schedule, (means, covariances, weights) = Linear(1000), parts()
    t = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = schedule(t)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    log_prob = log_density(means, covariances, weights, alpha, sigma)(x).sum()
    (score,) = torch.autograd.grad(log_prob, x)
    denoised = GaussianMixtureDenoiser(schedule, means, covariances, weights)(x.detach(), t)
    torch.testing.assert_close(denoised.eps, -sigma * score, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(denoised.x0, (x.detach() + sigma**2 * score) / alpha, rtol=1e-7, atol=1e-7)  # Tweedie


def test_the_gaussian_is_a_mixture_of_one():
    schedule, (means, covariances, _) = Cosine(100), parts(components=1)
    x, t = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in schedule(t))
    denoised = GaussianDenoiser(schedule, means[0], covariances[0])(x, t)
    gain = [
        a * covariances[0] @ torch.linalg.inv(a**2 * covariances[0] + s**2 * torch.eye(4).double())
        for a, s in zip(alpha, sigma, strict=False)
    ]
    x0 = torch.stack([means[0] + g @ (row - a * means[0]) for g, row, a in zip(gain, x, alpha, strict=False)])
    torch.testing.assert_close(denoised.x0, x0)
    torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x)


def test_x0_is_the_posterior_mean():
    """For a mixture on a line it is the numerical integral over x_0."""
    schedule = Linear(100)
    means, variances = torch.tensor([[-1.0], [0.5]]).double(), torch.tensor([[[0.04]], [[0.25]]]).double()
    weights = torch.tensor([0.25, 0.75]).double()
    x_0 = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    density = sum(
        w * torch.exp(-((x_0 - m) ** 2) / (2 * v)) / v.sqrt()
        for w, m, v in zip(weights, means[:, 0], variances[:, 0, 0], strict=False)
    )
    x_t = torch.tensor([[0.3], [-1.4], [2.0]], dtype=torch.float64)
    for t in (0.1, 0.5, 1.0):
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        joint = density * torch.exp(-((x_t - alpha * x_0) ** 2) / (2 * sigma**2))  # (3, 20001)
        expected = (joint * x_0).sum(1) / joint.sum(1)
        ours = GaussianMixtureDenoiser(schedule, means, variances, weights)(x_t, torch.tensor(t))
        torch.testing.assert_close(ours.x0[:, 0], expected, rtol=1e-6, atol=1e-7)


def test_data_of_no_variance_are_reached_exactly():
    """The data are two points, with a semi-definite covariance."""
    means = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    denoiser = GaussianMixtureDenoiser(Linear(1000), means, torch.zeros(2, 2, 2, dtype=torch.float64))
    denoised = denoiser(torch.tensor([[0.9, 1.1]], dtype=torch.float64), torch.tensor(0.01))
    torch.testing.assert_close(denoised.x0, means[:1], rtol=1e-12, atol=0)


def test_shapes_rows_times_and_dtypes_are_those_of_x_t():
    schedule, (means, covariances, weights) = Linear(10), parts()
    denoiser = GaussianMixtureDenoiser(schedule, means, covariances, weights, prediction=V("fixed_large"))
    x, t = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 0.6, 1.0])
    denoised = denoiser(x, t)
    assert denoised.x0.dtype == torch.float32
    assert denoised.x0.shape == x.shape
    assert denoised.variance_mix == 1
    for row in range(3):
        alone = denoiser(x[row].flatten()[None].double(), t[row])
        torch.testing.assert_close(denoised.x0[row].flatten(), alone.x0[0].float())
        torch.testing.assert_close(denoised.eps[row].flatten(), alone.eps[0].float())


def test_draws_have_the_moments_of_the_mixture(mixture):
    denoiser = mixture(Linear(10))
    x = denoiser.sample(200_000, torch.Generator().manual_seed(0))
    weights = denoiser.weights
    mean = weights @ denoiser.means
    components = denoiser.rotations @ torch.diag_embed(denoiser.variances) @ denoiser.rotations.mT
    centred = denoiser.means - mean
    covariance = torch.einsum("k,kde->de", weights, components + centred[:, :, None] * centred[:, None, :])
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 * float(covariance.diagonal().max() / 200_000) ** 0.5)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.01)
