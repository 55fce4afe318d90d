"""The likelihood by the probability-flow ODE agrees with densities in closed form; bits per dimension follow."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from options import names, option
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from diffsweep.diffusion import (
    Denoised,
    Denoiser,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Noise,
    Stream,
    ode_log_likelihood,
)
from diffsweep.diffusion.likelihood import bits_per_dim, dequantised
from diffsweep.schedules import EDM, VE, VP, Cosine, Flow, Linear

SCHEDULES = {name: option("schedule", name) for name in names("schedule")}
SCHEDULES["cosine zero terminal"] = Cosine(1000, zero_terminal_snr=True)
SCHEDULES["short linear"] = Linear(20)


def ends(schedule):
    """Return alpha and sigma at t_min and t_max, (2,) each."""
    with torch.no_grad():
        return schedule(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))


def marginal(denoiser, alpha, sigma):
    """Return the log-density of x_t at a noise level, by torch.distributions."""
    covariances = denoiser.rotations @ torch.diag_embed(denoiser.variances) @ denoiser.rotations.mT
    eye = torch.eye(covariances.shape[-1], dtype=torch.float64)
    parts = MultivariateNormal(alpha * denoiser.means, alpha**2 * covariances + sigma**2 * eye)
    return MixtureSameFamily(Categorical(denoiser.weights), parts).log_prob


def flown(denoiser, x):
    """x at t_max by the flow of a Gaussian, which scales each axis with its standard deviation, and log |det|."""
    alpha, sigma = ends(denoiser.schedule)
    mean, rotation = denoiser.means[0], denoiser.rotations[0]
    first, last = alpha[:, None] ** 2 * denoiser.variances + sigma[:, None] ** 2
    scale = (last / first).sqrt()
    return alpha[1] * mean + ((x - alpha[0] * mean) @ rotation * scale) @ rotation.T, scale.log().sum()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_density_of_gaussian_data_is_exact(gaussian, name):
    """The prior's density at the end of the flow and the change of volume are both known."""
    denoiser = gaussian(SCHEDULES[name])
    x = denoiser.sample(8)
    found = ode_log_likelihood(denoiser, x, tolerance=1e-7)
    end, log_determinant = flown(denoiser, x)
    expected = Normal(0.0, ends(denoiser.schedule)[1][1]).log_prob(end).sum(1) + log_determinant
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=1e-6)


def flown_by_scipy(denoiser, x):
    """x at t_max by another solver in other variables: y = x / alpha over the log of sigma / alpha."""
    alpha, sigma = ends(denoiser.schedule)
    begin, end = (float(value) for value in (sigma / alpha).log())

    def rate(log_ratio, y):
        ratio = math.exp(log_ratio)
        y = torch.from_numpy(y).reshape(x.shape)
        t = denoiser.schedule.time_of(torch.tensor(-2 * log_ratio, dtype=torch.float64))
        level = denoiser.schedule(t)[0]
        return (ratio * denoiser(level * y, t).eps).flatten().numpy()

    with torch.no_grad():
        solution = scipy.integrate.solve_ivp(rate, (begin, end), (x / alpha[0]).flatten().numpy(), rtol=1e-5, atol=1e-7)
    return alpha[1] * torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_density_of_a_mixture_is_exact(mixture, name):
    """It is that of the marginal at t_min, with the prior in place of the marginal at the end of the flow."""
    denoiser = mixture(SCHEDULES[name])
    x = denoiser.sample(4)
    (alpha_0, alpha_1), (sigma_0, sigma_1) = ends(denoiser.schedule)
    end = flown_by_scipy(denoiser, x)
    mismatch = Normal(0.0, sigma_1).log_prob(end).sum(1) - marginal(denoiser, alpha_1, sigma_1)(end)
    found = ode_log_likelihood(denoiser, x, tolerance=1e-7)
    torch.testing.assert_close(found.nats, marginal(denoiser, alpha_0, sigma_0)(x) + mismatch, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", [Flow(), VP(), EDM(sigma_max=300.0), EDM(sigma_min=1e-4)])
def test_where_t_min_is_almost_clean_it_is_the_density_of_the_data(schedule):
    """The data have mean 0, so that the prior hardly differs from the last marginal."""
    covariance = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    denoiser = GaussianDenoiser(schedule, torch.zeros(2, dtype=torch.float64), covariance)
    x = denoiser.sample(8)
    expected = MultivariateNormal(denoiser.means[0], covariance).log_prob(x)
    found = ode_log_likelihood(denoiser, x, tolerance=1e-7)
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=1e-4)


def test_where_t_min_is_almost_clean_the_density_of_a_mixture_is_that_of_the_data(mixture):
    denoiser = mixture(Flow())
    x = denoiser.sample(8)
    found = ode_log_likelihood(denoiser, x, tolerance=1e-7)
    torch.testing.assert_close(found.nats, marginal(denoiser, 1.0, 0.0)(x), rtol=0, atol=1e-4)


def test_the_data_may_be_taken_to_be_at_another_time(gaussian):
    """With ``start`` the data are taken as x_t at that time."""
    denoiser = gaussian(Flow())
    x, t = torch.randn(4, 2, dtype=torch.float64), 0.3
    found = ode_log_likelihood(denoiser, x, tolerance=1e-7, start=t)
    torch.testing.assert_close(found.nats, marginal(denoiser, 1 - t, t)(x), rtol=0, atol=1e-4)


def test_the_density_integrates_to_1():
    """It is that of a mixture on a line, integrated by the trapezoid rule."""
    means, covariances = torch.tensor([[-0.5], [0.4]]).double(), torch.tensor([[[0.02]], [[0.1]]]).double()
    denoiser = GaussianMixtureDenoiser(VE(sigma_min=0.05, sigma_max=5.0), means, covariances)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    found = ode_log_likelihood(denoiser, x[:, None], tolerance=1e-6)
    assert torch.trapezoid(found.nats.exp(), x).item() == pytest.approx(1, abs=1e-4)


def test_images_are_samples_of_many_dimensions(gaussian):
    """Data (B, C, H, W) have the likelihood of the same numbers as (B, D)."""
    roots = torch.randn(4, 4, dtype=torch.float64)
    denoiser = GaussianDenoiser(Cosine(100), torch.randn(4).double(), roots @ roots.T / 4)
    x = denoiser.sample(3)
    flat, image = (ode_log_likelihood(denoiser, z, tolerance=1e-6).nats for z in (x, x.reshape(3, 1, 2, 2)))
    torch.testing.assert_close(image, flat, rtol=1e-12, atol=1e-12)


def test_hutchinsons_estimate_is_unbiased(mixture):
    """The means of 300 probes at each of three points lie within four standard errors of the exact values."""
    denoiser = mixture(Cosine(1000))
    x, count = denoiser.sample(3), 300
    exact = ode_log_likelihood(denoiser, x, tolerance=1e-6).nats
    noise = Noise(0, torch.arange(3 * count))
    rows = ode_log_likelihood(denoiser, x.repeat(count, 1), None, "hutchinson", noise, tolerance=1e-6)
    estimates = rows.nats.reshape(count, 3)
    error = estimates.std(0) / count**0.5
    assert (error > 0.002).all()
    assert ((estimates.mean(0) - exact).abs() < 4 * error + 1e-5).all()


def test_hutchinsons_estimate_is_exact_in_one_dimension():
    """The squares of random signs are 1."""
    means, covariances = torch.tensor([[-0.5], [0.4]]).double(), torch.tensor([[[0.02]], [[0.1]]]).double()
    denoiser = GaussianMixtureDenoiser(Linear(100), means, covariances)
    x = denoiser.sample(16)
    exact = ode_log_likelihood(denoiser, x)
    estimate = ode_log_likelihood(denoiser, x, divergence="hutchinson", noise=Noise(0, torch.arange(16)))
    torch.testing.assert_close(estimate.nats, exact.nats, rtol=1e-10, atol=1e-10)
    assert estimate.calls == exact.calls


def test_hutchinsons_estimate_is_exact_where_the_numbers_are_independent():
    """A whitened Gaussian has a diagonal Jacobian."""
    denoiser = GaussianDenoiser(Linear(100), torch.zeros(5).double(), torch.diag(torch.rand(5).double() + 0.1))
    x = denoiser.sample(4)
    exact = ode_log_likelihood(denoiser, x).nats
    estimate = ode_log_likelihood(denoiser, x, divergence="hutchinson", noise=Noise(0, torch.arange(4))).nats
    torch.testing.assert_close(estimate, exact, rtol=1e-10, atol=1e-10)


def test_the_probes_are_of_the_samples_and_of_the_seed(mixture):
    denoiser = mixture(Linear(100))
    x = denoiser.sample(1).expand(2, 2)

    def estimate(seed, *indices):
        return ode_log_likelihood(denoiser, x, None, "hutchinson", Noise(seed, torch.tensor(indices))).nats

    torch.testing.assert_close(estimate(0, 3, 3)[:1], estimate(0, 3, 3)[1:], rtol=1e-10, atol=1e-10)
    assert len({round(value, 6) for seed in range(6) for value in estimate(seed, 0, 1).tolist()}) > 1


def test_hutchinsons_estimate_requires_noise(gaussian):
    with pytest.raises(ValueError, match="needs noise"):
        ode_log_likelihood(gaussian(Linear(10)), torch.zeros(1, 2).double(), divergence="hutchinson")


@pytest.mark.parametrize("name", ["vp", "edm", "cosine"])
def test_a_smaller_tolerance_is_closer_and_costs_more_calls(mixture, name):
    denoiser = mixture(SCHEDULES[name])
    x = denoiser.sample(4)
    coarse, fine, finest = (ode_log_likelihood(denoiser, x, tolerance=tolerance) for tolerance in (1e-3, 1e-6, 1e-9))
    errors = [(found.nats - finest.nats).abs().max() for found in (coarse, fine)]
    assert errors[1] < errors[0] / 10
    assert errors[1] < 1e-5
    assert coarse.calls < fine.calls < finest.calls


def test_calls_progress_and_condition_are_those_of_the_denoiser(gaussian):
    received, reported, cond = [], [], object()

    class Keeping(Denoiser):
        def forward(self, x_t, t, cond=None):
            received.append(cond)
            return gaussian(self.schedule)(x_t, t)

    x = torch.zeros(2, 2, dtype=torch.float64)
    found = ode_log_likelihood(Keeping(Linear(10)), x, cond, progress=reported.append)
    assert found.calls == len(received)
    assert all(each is cond for each in received)
    assert reported == list(range(1, found.calls + 1))


@pytest.mark.parametrize("name", ["flow", "edm", "linear", "cosine zero terminal", "learned"])
def test_the_denoiser_is_evaluated_only_where_the_schedule_is_finite(gaussian, name):
    times = []

    class Keeping(Denoiser):
        def forward(self, x_t, t, cond=None):
            times.append(t.item())
            return gaussian(self.schedule)(x_t, t)

    schedule = SCHEDULES[name]
    ode_log_likelihood(Keeping(schedule), torch.zeros(2, 2, dtype=torch.float64), tolerance=1e-3)
    assert schedule.t_min - 1e-9 <= min(times)
    assert max(times) <= schedule.t_max + 1e-9


@pytest.mark.parametrize("name", ["vp", "ve", "edm", "flow", "linear", "cosine zero terminal", "cosine_continuous"])
def test_single_precision_is_double_with_fewer_digits(gaussian, name):
    denoiser = gaussian(SCHEDULES[name])
    x = denoiser.sample(4)
    single = ode_log_likelihood(denoiser, x.float(), tolerance=1e-5).nats
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), ode_log_likelihood(denoiser, x).nats, rtol=0, atol=2e-3)


def test_it_works_under_no_grad_and_keeps_no_graph(gaussian):
    """Parameters of the schedule and of the denoiser get no gradients either."""

    class Scaled(Denoiser):
        def __init__(self, schedule):
            super().__init__(schedule)
            self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x_t, t, cond=None):
            x0, eps, _ = gaussian(self.schedule)(x_t, t)
            return Denoised(self.scale * x0, self.scale * eps)

    denoiser = Scaled(SCHEDULES["learned"])
    x = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        inside = ode_log_likelihood(denoiser, x)
    outside = ode_log_likelihood(denoiser, x)
    assert torch.equal(inside.nats, outside.nats)
    assert not outside.nats.requires_grad
    assert all(parameter.grad is None for parameter in denoiser.parameters())


# Levels


def test_dequantised_data_are_uniform_in_their_bins():
    levels = torch.linspace(-1, 1, 17, dtype=torch.float64)
    x = dequantised(levels.repeat(4000, 1), 17, Noise(0, torch.arange(4000)))
    moved = (x - levels) * 16  # a bin is 1/8 wide
    assert moved.abs().max() < 1
    assert scipy.stats.kstest(moved.flatten().numpy(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    for one, other in ((0, 1), (5, 12)):
        assert abs(np.corrcoef(moved[:, one], moved[:, other])[0, 1]) < 4 / 4000**0.5


def test_dequantisation_is_of_the_sample_and_of_the_seed():
    x, noise = torch.zeros(4, 1, 2, 2, dtype=torch.float64), Noise(5, torch.arange(4))
    whole = dequantised(x, 256, noise)
    assert whole.shape == x.shape
    assert (whole.abs() < 1 / 255).all()
    assert torch.equal(dequantised(x[1:3], 256, noise[1:3]), whole[1:3])
    assert not torch.equal(dequantised(x, 256, Noise(6, torch.arange(4))), whole)
    assert dequantised(x.float(), 256, noise).dtype == torch.float32


def test_dequantisation_and_probes_are_independent_draws():
    """The same noise object serves both."""
    noise, x = Noise(0, torch.arange(2000)), torch.zeros(2000, 2, dtype=torch.float64)
    signs, moved = torch.sign(noise.like(x, Stream.PROBE)), dequantised(x, 2, noise)
    assert np.abs(np.corrcoef(moved.T, signs.T)[:2, 2:]).max() < 4 / 2000**0.5


@pytest.mark.parametrize(
    ("nats", "dimensions", "levels", "bits"),
    [
        (0.0, 3, None, 0.0),
        (-math.log(2) * 12, 4, None, 3.0),
        (0.0, 3, 17, 3.0),  # a bin is 1/8 wide: density 1 gives it 2^-3
        (math.log(8) * 5, 5, 17, 0.0),
        (0.0, 64, 256, math.log2(127.5)),
        (-10.0, 2, 256, 10 / (2 * math.log(2)) + 6.994353436858858),
    ],
)
def test_bits_per_dimension_by_hand(nats, dimensions, levels, bits):
    found = bits_per_dim(torch.tensor([nats], dtype=torch.float64), dimensions, levels)
    assert found.tolist() == pytest.approx([bits], abs=1e-12)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_data_uniform_over_the_bins_take_the_log_of_the_levels(levels):
    """Their density is one over the width of all bins, which reach half a bin beyond the ends."""
    width = 2 + 2 / (levels - 1)
    nats = torch.tensor([-64 * math.log(width)], dtype=torch.float64)
    assert bits_per_dim(nats, 64, levels).item() == pytest.approx(math.log2(levels), abs=1e-12)


def test_the_cost_of_levels_of_a_wide_gaussian_follows_from_their_probabilities():
    """Where a bin's density hardly varies, dequantised data cost the code length of the bin."""
    schedule, variance = VE(sigma_min=1e-3, sigma_max=200.0), 4.0
    denoiser = GaussianDenoiser(schedule, torch.zeros(1).double(), torch.full((1, 1), variance).double())
    x_0 = torch.linspace(-1, 1, 17, dtype=torch.float64)[1:-1, None]
    x = dequantised(x_0, 17, Noise(0, torch.arange(15)))
    found = bits_per_dim(ode_log_likelihood(denoiser, x, tolerance=1e-6).nats, 1, 17)
    law = scipy.stats.norm(0, variance**0.5)
    lengths = -np.log2(law.cdf(x_0[:, 0] + 1 / 16) - law.cdf(x_0[:, 0] - 1 / 16))
    np.testing.assert_allclose(found, lengths, atol=0.03)
    assert found.mean().item() == pytest.approx(lengths.mean(), abs=5e-3)
