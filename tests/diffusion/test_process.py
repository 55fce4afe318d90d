"""The process between two times, against the formulas in betas, composition, and Bayes' rule."""

import math

import pytest
import torch

from diffsweep.diffusion import add_noise, posterior, prior, step_between, transition
from diffsweep.schedules import Cosine, Linear

ROWS = torch.tensor([-1.3, 0.2, 2.0], dtype=torch.float64)


def time(k, schedule):
    return torch.tensor(k / schedule.num_steps, dtype=torch.float64)


def in_betas(num_steps=1000):
    """beta, alpha_bar and alpha_bar_prev of the linear schedule, index i = k - 1, as improved-diffusion has them."""
    betas = torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    return betas, alpha_bar, torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])


def test_one_step_of_the_chain_is_the_published_one():
    """q(x_k | x_{k-1}) = N(sqrt(1 - beta) x, beta)."""
    schedule, (betas, _, _) = Linear(1000), in_betas()
    for k in (1, 2, 500, 1000):
        mean, variance = transition(schedule, ROWS, time(k - 1, schedule), time(k, schedule))
        torch.testing.assert_close(mean, (1 - betas[k - 1]).sqrt() * ROWS, rtol=1e-12, atol=0)
        torch.testing.assert_close(variance, betas[k - 1], rtol=1e-9, atol=0)


def test_posterior_of_one_step_is_the_published_one():
    """DDPM eq. 7: (sqrt(bar_prev) beta x_0 + sqrt(1 - beta) (1 - bar_prev) x_t) / (1 - bar)."""
    schedule, (betas, alpha_bar, previous) = Linear(1000), in_betas()
    x_0, x_t = torch.tensor([0.3, -0.9]).double(), torch.tensor([1.1, 0.4]).double()
    for k in (1, 2, 10, 500, 1000):
        beta, bar, prev = betas[k - 1], alpha_bar[k - 1], previous[k - 1]
        mean, variance = posterior(schedule, x_0, x_t, time(k - 1, schedule), time(k, schedule))
        expected = (prev.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - prev) * x_t) / (1 - bar)
        torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(variance, beta * (1 - prev) / (1 - bar), rtol=1e-8, atol=1e-18)


def test_posterior_variance_reference_numbers():
    """Index i of improved-diffusion is step k = i + 1; its clipped log at index 0 is that of index 1."""
    schedule = Linear(1000)
    variances = {i: step_between(schedule, time(i, schedule), time(i + 1, schedule)).var_post for i in (0, 1, 500)}
    assert float(variances[1]) == pytest.approx(5.45318766e-05, rel=1e-8)
    assert float(variances[500]) == pytest.approx(1.00513358e-02, rel=1e-8)
    assert math.log(variances[1]) == pytest.approx(-9.816725135, abs=1e-8)
    assert variances[0] == 0


@pytest.mark.parametrize(("s", "u", "t"), [(0, 1, 2), (0, 300, 1000), (1, 2, 3), (100, 130, 800), (999, 999.5, 1000)])
@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_transitions_compose(kind, s, u, t):
    """Chapman-Kolmogorov: s to u to t is s to t."""
    schedule = kind(1000)
    s, u, t = (time(k, schedule) for k in (s, u, t))
    mean_u, variance_u = transition(schedule, ROWS, s, u)
    mean, added = transition(schedule, mean_u, u, t)
    factor = step_between(schedule, u, t).alpha_ts
    direct_mean, direct_variance = transition(schedule, ROWS, s, t)
    torch.testing.assert_close(mean, direct_mean, rtol=1e-11, atol=0)
    torch.testing.assert_close(factor**2 * variance_u + added, direct_variance, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("s", "t"), [(1, 2), (10, 500), (1, 1000), (400.25, 401.5)])
@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_posterior_is_bayes_rule(kind, s, t):
    """p(x_s | x_t, x_0) of scalars by completing the square of prior times likelihood."""
    schedule = kind(1000)
    s, t = time(s, schedule), time(t, schedule)
    x_0, x_t = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-1.2], dtype=torch.float64)
    prior_mean, prior_variance = schedule(s)[0] * x_0, schedule(s)[1] ** 2
    _, likelihood_variance = transition(schedule, x_0, s, t)
    factor = step_between(schedule, s, t).alpha_ts
    precision = 1 / prior_variance + factor**2 / likelihood_variance
    mean, variance = posterior(schedule, x_0, x_t, s, t)
    expected = (prior_mean / prior_variance + factor * x_t / likelihood_variance) / precision
    torch.testing.assert_close(variance, 1 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)


def test_posterior_then_marginal():
    """Averaging the posterior over x_t given x_0 is the marginal at s."""
    schedule = Cosine(1000)
    s, t = time(200, schedule), time(700, schedule)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    at_0, variance = posterior(schedule, ROWS, torch.zeros_like(ROWS), s, t)
    slope = (posterior(schedule, ROWS, torch.ones_like(ROWS), s, t)[0] - at_0)[0]
    torch.testing.assert_close(at_0 + slope * alpha_t * ROWS, alpha_s * ROWS, rtol=1e-11, atol=0)
    torch.testing.assert_close(slope**2 * sigma_t**2 + variance, sigma_s**2, rtol=1e-11, atol=0)


def test_posterior_towards_clean_data_is_the_point():
    schedule = Linear(10)
    x_0 = torch.randn(3, dtype=torch.float64)
    mean, variance = posterior(schedule, x_0, torch.randn(3, dtype=torch.float64), time(0, schedule), time(4, schedule))
    torch.testing.assert_close(mean, x_0, rtol=1e-13, atol=0)
    assert variance == 0


def test_forward_variance_keeps_its_digits_in_tiny_steps():
    """By expm1 of the log-SNR's change; sigma_t^2 - alpha_ts^2 sigma_s^2 would cancel."""
    schedule = Linear(100_000)
    k = 99_000
    u = (k - 1) / (100_000 - 1)
    beta = (1e-4 + (0.02 - 1e-4) * u) / 100
    step = step_between(schedule, time(k - 1, schedule), time(k, schedule))
    assert float(step.var_ts) == pytest.approx(beta, rel=1e-9)


def test_times_of_each_row_and_one_time_for_all_agree():
    schedule = Linear(100)
    x_0, x_t = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    s, t = torch.tensor([0.1, 0.5], dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)
    mean, variance = posterior(schedule, x_0, x_t, s, t)
    for row in range(2):
        one_mean, one_variance = posterior(schedule, x_0[row : row + 1], x_t[row : row + 1], s[row], t[row])
        torch.testing.assert_close(mean[row : row + 1], one_mean)
        torch.testing.assert_close(variance[row].squeeze(), one_variance)


def test_add_noise_is_alpha_x_plus_sigma_eps():
    schedule = Linear(1000)
    _, alpha_bar, _ = in_betas()
    x_0, eps = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    noisy = add_noise(schedule, x_0, t, eps)
    for row, k in enumerate((1, 500, 1000)):
        bar = alpha_bar[k - 1]
        torch.testing.assert_close(noisy[row], bar.sqrt() * x_0[row] + (1 - bar).sqrt() * eps[row], rtol=1e-10, atol=0)
        torch.testing.assert_close(add_noise(schedule, x_0, t[row], eps)[row], noisy[row], rtol=0, atol=0)
    assert torch.equal(add_noise(schedule, x_0, torch.tensor(0.0), eps), x_0)


def test_prior_is_noise_at_the_last_sigma():
    _, alpha_bar, _ = in_betas()
    noise = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(prior(Linear(1000), noise), (1 - alpha_bar[-1]).sqrt() * noise, rtol=1e-12, atol=0)
    assert prior(Linear(10), noise.float()).dtype == torch.float32
