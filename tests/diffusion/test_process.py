"""The process between two times agrees with the formulas in betas, with composition, and with Bayes' rule."""

import math

import pytest
import torch

from diffsweep.diffusion import add_noise, in_numbers, posterior, prior, step_between, steps_of, transition
from diffsweep.schedules import EDM, VE, VP, Cosine, CosineContinuous, Flow, Learned, Linear, SubVP

ROWS = torch.tensor([-1.3, 0.2, 2.0], dtype=torch.float64)


def time(k, schedule):
    return torch.tensor(k / schedule.num_steps, dtype=torch.float64)


def in_betas(num_steps=1000):
    """Return beta, alpha_bar and alpha_bar_prev of the linear schedule at index i = k - 1, as in improved-diffusion."""
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
    """From s to u to t is the same as from s to t (Chapman-Kolmogorov)."""
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
    """p(x_s | x_t, x_0) of scalars follows by completing the square of prior times likelihood."""
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


def test_the_posterior_averages_to_the_marginal():
    """Averaging the posterior over x_t given x_0 is the marginal at s."""
    schedule = Cosine(1000)
    s, t = time(200, schedule), time(700, schedule)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    at_0, variance = posterior(schedule, ROWS, torch.zeros_like(ROWS), s, t)
    slope = (posterior(schedule, ROWS, torch.ones_like(ROWS), s, t)[0] - at_0)[0]
    torch.testing.assert_close(at_0 + slope * alpha_t * ROWS, alpha_s * ROWS, rtol=1e-11, atol=0)
    torch.testing.assert_close(slope**2 * sigma_t**2 + variance, sigma_s**2, rtol=1e-11, atol=0)


def test_the_posterior_at_clean_data_is_a_point():
    schedule = Linear(10)
    x_0 = torch.randn(3, dtype=torch.float64)
    mean, variance = posterior(schedule, x_0, torch.randn(3, dtype=torch.float64), time(0, schedule), time(4, schedule))
    torch.testing.assert_close(mean, x_0, rtol=1e-13, atol=0)
    assert variance == 0


def test_forward_variance_keeps_its_digits_in_tiny_steps():
    """It is computed by expm1 of the change of the log-SNR, as sigma_t^2 - alpha_ts^2 sigma_s^2 would cancel."""
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
        torch.testing.assert_close(add_noise(schedule, x_0, t[row], eps)[row], noisy[row], rtol=1e-14, atol=0)
    assert torch.equal(add_noise(schedule, x_0, torch.tensor(0.0), eps), x_0)


def test_prior_is_noise_at_the_last_sigma():
    _, alpha_bar, _ = in_betas()
    noise = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(prior(Linear(1000), noise), (1 - alpha_bar[-1]).sqrt() * noise, rtol=1e-12, atol=0)
    assert prior(Linear(10), noise.float()).dtype == torch.float32


SCHEDULES = {
    "linear": Linear(100),
    "zero terminal": Cosine(100, zero_terminal_snr=True),
    "vp": VP(),
    "sub_vp": SubVP(),
    "flow": Flow(),
    "edm": EDM(),
    "ve": VE(),
    "cosine_continuous": CosineContinuous(),
    "learned": Learned(width=4),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_steps_of_a_trajectory_are_its_steps_one_by_one(name):
    schedule = SCHEDULES[name]
    times = torch.tensor([1.0, 0.7, 0.31, 0.02, 0.01], dtype=torch.float64)
    steps = in_numbers(steps_of(schedule, times))
    assert len(steps) == 4
    for i in range(4):
        (one,) = in_numbers(step_between(schedule, times[i + 1, None], times[i, None]))
        torch.testing.assert_close(steps[i], one, rtol=1e-12, atol=0)
        assert (steps[i].at_t.t, steps[i].at_s.t) == (times[i], times[i + 1])
        assert all(type(value) is float for value in (*steps[i].at_t[1:], *steps[i].at_s[1:], *steps[i][2:]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_trajectory_to_0_ends_at_clean_data(name):
    """Alpha is 1 and sigma 0 at the end, whatever the schedule has at t = 0.

    All of sigma_t^2 is then forward variance, and the posterior is a point.
    """
    schedule = SCHEDULES[name]
    times = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    steps = steps_of(schedule, times)
    assert steps.at_s.alpha[-1] == 1
    assert steps.at_s.sigma[-1] == 0
    assert steps.var_post[-1] == 0
    torch.testing.assert_close(steps.var_ts[-1], schedule(times[-2])[1] ** 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(steps.alpha_ts[-1], schedule(times[-2])[0], rtol=1e-12, atol=0)
    assert (steps.at_s.sigma[:-1] > 0).all()
    assert (steps.var_post[:-1] > 0).all()


@pytest.mark.parametrize("name", ["ve", "cosine_continuous", "learned"])
def test_a_trajectory_with_0_twice_steps_to_time_0_and_then_to_clean_data(name):
    schedule = SCHEDULES[name]
    times = torch.tensor([1.0, 0.4, 0.0, 0.0], dtype=torch.float64)
    steps, (alpha, sigma) = steps_of(schedule, times), schedule(torch.zeros((), dtype=torch.float64))
    for ours, expected in (
        (steps.at_s.alpha[1:], torch.stack([alpha, torch.ones_like(alpha)])),
        (steps.at_s.sigma[1:], torch.stack([sigma, torch.zeros_like(sigma)])),
        (torch.stack([steps.at_t.alpha[2], steps.at_t.sigma[2]]), torch.stack([alpha, sigma])),
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(steps.var_ts[2], sigma**2, rtol=1e-14, atol=0)
    assert steps.var_post[1] > 0
    assert steps.var_post[2] == 0
    assert all(torch.isfinite(value).all() for value in (*steps.at_t, *steps.at_s, steps.var_ts, steps.var_post))


@pytest.mark.parametrize("name", ["linear", "zero terminal", "vp", "sub_vp", "flow", "edm"])
def test_where_time_0_is_clean_to_clean_changes_nothing(name):
    schedule = SCHEDULES[name]
    s, t = torch.zeros(2, dtype=torch.float64), torch.tensor([0.3, 1.0], dtype=torch.float64)
    explicit, default = step_between(schedule, s, t, torch.ones(2, dtype=torch.bool)), step_between(schedule, s, t)
    torch.testing.assert_close(explicit, default, rtol=1e-14, atol=0)


def test_to_clean_is_given_row_by_row():
    schedule = VE()
    s, t = torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64), torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    to_clean = torch.tensor([True, False, False])
    rows, plain = step_between(schedule, s, t, to_clean), step_between(schedule, s, t)
    for ours, expected in zip(in_numbers(rows)[1:], in_numbers(plain)[1:], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)
    assert (rows.at_s.sigma[0], rows.var_post[0]) == (0, 0)
    torch.testing.assert_close(rows.var_ts[0], schedule(t[0])[1] ** 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_variances_of_every_schedule_are_the_difference_of_levels(name):
    """sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, and the posterior's share sigma_s^2 / sigma_t^2 of it."""
    schedule = SCHEDULES[name]
    s, t = (torch.tensor(values, dtype=torch.float64) for values in ([0.1, 0.5, 0.01], [0.4, 1.0, 0.9]))
    (alpha_s, sigma_s), (alpha_t, sigma_t), step = schedule(s), schedule(t), step_between(schedule, s, t)
    expected = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    torch.testing.assert_close(step.var_ts, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(step.var_post, expected * sigma_s**2 / sigma_t**2, rtol=1e-10, atol=0)


def test_a_trajectory_is_on_the_cpu_in_float64():
    steps = steps_of(Linear(10), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    for value in (*steps.at_t, *steps.at_s, steps.var_ts, steps.var_post):
        assert (value.dtype, value.device.type) == (torch.float64, "cpu")
