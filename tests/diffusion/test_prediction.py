"""Predictions against their published forms."""

import math

import pytest
import torch

from diffsweep.diffusion import X0, Condition, Denoised, Denoiser, Eps, GaussianDenoiser, NetworkDenoiser, V
from diffsweep.schedules import Cosine, Linear, Schedule

X_0 = torch.tensor([[0.4, -1.0], [0.9, 0.0]], dtype=torch.float64)
EPS = torch.tensor([[1.3, 0.2], [-0.7, 2.1]], dtype=torch.float64)


class Exploding(Schedule):
    """A continuous schedule with alpha = 1: for what must not assume alpha^2 + sigma^2 = 1, or a grid."""

    def forward(self, t):
        return torch.ones_like(t), 5 * t

    def log_snr(self, t):
        return -2 * torch.log(5 * t)

    def time_of(self, log_snr):
        return torch.exp(-log_snr / 2) / 5


def test_targets_are_the_published_ones():
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022) where alpha^2 + sigma^2 = 1."""
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    assert torch.equal(Eps().target(X_0, EPS, alpha, sigma), EPS)
    assert torch.equal(X0().target(X_0, EPS, alpha, sigma), X_0)
    torch.testing.assert_close(V().target(X_0, EPS, alpha, sigma), 0.8 * EPS - 0.6 * X_0)


def test_v_is_a_rotation_on_any_schedule():
    """(x_t, sqrt(alpha^2 + sigma^2) v) has the norm of sqrt(alpha^2 + sigma^2) (x_0, eps)."""
    alpha, sigma = torch.tensor(1.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    x_t, v = alpha * X_0 + sigma * EPS, V().target(X_0, EPS, alpha, sigma)
    torch.testing.assert_close(x_t**2 / 10 + v**2, X_0**2 + EPS**2)


def test_v_is_the_angular_derivative():
    """v = d x_phi / d phi for x_phi = cos(phi) x_0 + sin(phi) eps."""
    phi = torch.tensor(0.7, dtype=torch.float64)
    _, derivative = torch.autograd.functional.jvp(lambda p: p.cos() * X_0 + p.sin() * EPS, phi, torch.ones_like(phi))
    torch.testing.assert_close(V().target(X_0, EPS, phi.cos(), phi.sin()), derivative)


@pytest.mark.parametrize("num_steps", [1, 4, 100, 1000])
def test_time_seen_by_the_network_counts_from_0_to_almost_1000(num_steps):
    """1000 (k - 1) / T: the index of public checkpoints where T = 1000."""
    k = torch.arange(1, num_steps + 1, dtype=torch.float64)
    seen = Eps().c_noise(Linear(num_steps), k / num_steps)
    torch.testing.assert_close(seen, 1000 * (k - 1) / num_steps, rtol=1e-12, atol=1e-9)


def test_time_seen_by_the_network_is_never_negative():
    assert Eps().c_noise(Linear(10), torch.tensor(0.03)) == 0


def test_time_of_a_continuous_schedule_is_1000_t():
    assert float(Eps().c_noise(Exploding(), torch.tensor(0.25))) == 250


def test_variance_is_the_mix():
    assert Eps("fixed_small").variance_mix == 0
    assert Eps("fixed_large").variance_mix == 1
    with pytest.raises(ValueError, match="fixed_small or fixed_large"):
        V("learned")


def test_eps_from_eps_is_exact_where_sigma_is_tiny():
    schedule = Cosine(100_000)
    alpha, sigma = schedule(torch.tensor(1e-5, dtype=torch.float64))
    denoised = Eps().eps(EPS, alpha * X_0 + sigma * EPS, alpha, sigma)
    assert torch.equal(denoised, EPS)
    x_t = alpha * X_0 + sigma * EPS
    torch.testing.assert_close(V().eps(V().target(X_0, EPS, alpha, sigma), x_t, alpha, sigma), EPS, rtol=1e-14, atol=0)


class Recorder(torch.nn.Module):
    """A network that keeps what it was given and returns a fixed output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        self.seen = x, c_noise, cond
        return self.output


@pytest.mark.parametrize("prediction", [Eps(), X0(), V("fixed_large")])
@pytest.mark.parametrize("t", [torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.3, 0.9])])
def test_a_network_that_knows_the_target_denoises_perfectly(prediction, t):
    schedule, cond = Linear(10), Condition(vector=torch.tensor([1, 2]))
    alpha, sigma = (value.double().reshape(-1, 1) for value in schedule(t.double()))
    network = Recorder(prediction.target(X_0, EPS, alpha, sigma))
    denoiser = NetworkDenoiser(network, schedule, prediction)
    x_t = alpha * X_0 + sigma * EPS
    denoised = denoiser(x_t, t, cond)
    torch.testing.assert_close(denoised.x0, X_0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(denoised.eps, EPS, rtol=1e-5, atol=1e-5)
    assert denoised.variance_mix == prediction.variance_mix
    x, c_noise, seen_cond = network.seen
    torch.testing.assert_close(x, x_t)
    assert seen_cond is cond
    expected = (1000 * (t.double() - 0.1)).expand(2)
    torch.testing.assert_close(c_noise, expected, rtol=1e-5, atol=0)
    assert c_noise.dtype == x_t.dtype
    assert torch.equal(denoiser.output(x_t, t, cond), network.output)


@pytest.mark.parametrize("kind", [Eps, X0, V])
def test_output_of_a_denoiser_is_in_the_units_of_its_prediction(kind):
    """The default of :meth:`Denoiser.output`, by conversion, converts back to what the denoiser says."""
    schedule = Cosine(100)
    denoiser = GaussianDenoiser(schedule, torch.zeros(2).double(), torch.eye(2).double() / 3, prediction=kind())
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    alpha, sigma = (value[:, None] for value in schedule(t))
    output = denoiser.output(X_0, t)
    torch.testing.assert_close(denoiser.prediction.x0(output, X_0, alpha, sigma), denoiser(X_0, t).x0)
    assert isinstance(denoiser, Denoiser)
    assert isinstance(denoiser(X_0, t), Denoised)


def test_published_conversions_from_v():
    """x_0 = alpha x_t - sigma v and eps = sigma x_t + alpha v on a variance-preserving schedule."""
    alpha, sigma = torch.tensor(math.cos(1.1)).double(), torch.tensor(math.sin(1.1)).double()
    alpha, sigma = alpha / torch.hypot(alpha, sigma), sigma / torch.hypot(alpha, sigma)
    torch.testing.assert_close(V().x0(EPS, X_0, alpha, sigma), alpha * X_0 - sigma * EPS)
    torch.testing.assert_close(V().eps(EPS, X_0, alpha, sigma), sigma * X_0 + alpha * EPS)
