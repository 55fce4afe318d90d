"""The simple loss against hand-computed numbers, closed forms and gradient identities."""

import pytest
import torch
from torch import nn

from diffsweep.diffusion import (
    X0,
    Eps,
    GaussianDenoiser,
    NetworkDenoiser,
    Noise,
    Simple,
    Stream,
    V,
    add_noise,
    sums_by_quarter,
)
from diffsweep.schedules import Cosine, Linear

SCHEDULE = Linear(1000)


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        return self.output


@pytest.mark.parametrize(
    ("loss", "expected"),
    [  # errors 0.5, -2, 0, 3 and 0, 1, -0.5, 0.5
        ("l2", [(0.25 + 4 + 0 + 9) / 4, (0 + 1 + 0.25 + 0.25) / 4]),
        ("l1", [(0.5 + 2 + 0 + 3) / 4, (0 + 1 + 0.5 + 0.5) / 4]),
        ("huber", [(0.125 + 1.5 + 0 + 2.5) / 4, (0 + 0.5 + 0.125 + 0.125) / 4]),
    ],
)
def test_by_hand(loss, expected):
    error = torch.tensor([[0.5, -2.0, 0.0, 3.0], [0.0, 1.0, -0.5, 0.5]], dtype=torch.float64).reshape(2, 1, 2, 2)
    x_0, eps = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    denoiser = NetworkDenoiser(Fixed(eps + error), SCHEDULE, Eps())
    losses = Simple(loss)(denoiser, x_0, None, torch.tensor([0.2, 0.9], dtype=torch.float64), eps)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


def test_refuses_an_unknown_loss():
    with pytest.raises(ValueError, match="l2, l1, huber"):
        Simple("l3")


@pytest.mark.parametrize("kind", [Eps, X0, V])
def test_a_perfect_network_has_no_loss(kind):
    x_0, eps, t = torch.randn(3, 5).double(), torch.randn(3, 5).double(), torch.tensor([0.1, 0.5, 1.0]).double()
    alpha, sigma = (value[:, None] for value in SCHEDULE(t))
    denoiser = NetworkDenoiser(Fixed(kind().target(x_0, eps, alpha, sigma)), SCHEDULE, kind())
    assert (Simple("l2")(denoiser, x_0, None, t, eps) == 0).all()


@pytest.mark.parametrize("k", [1, 50, 300, 700, 1000])
def test_expected_loss_at_the_exact_denoiser(k):
    """Gaussian data of variances c: E |eps - E[eps | x_t]|^2 is the mean of alpha^2 c / (alpha^2 c + sigma^2)."""
    count, variances = 40_000, torch.tensor([0.5, 0.1, 2.0], dtype=torch.float64)
    denoiser = GaussianDenoiser(SCHEDULE, torch.zeros(3).double(), torch.diag(variances))
    noise, t = Noise(0, torch.arange(count)), torch.full((count,), k / 1000, dtype=torch.float64)
    x_0 = noise.normal(3, stream=Stream.PRIOR, dtype=torch.float64) * variances.sqrt()
    eps = noise.normal(3, stream=Stream.EPS, dtype=torch.float64)
    losses = Simple("l2")(denoiser, x_0, None, t, eps)
    alpha, sigma = SCHEDULE(torch.tensor(k / 1000, dtype=torch.float64))
    expected = (alpha**2 * variances / (alpha**2 * variances + sigma**2)).mean()
    assert abs(losses.mean() - expected) < 4 * losses.std() / count**0.5


@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)])
def test_losses_of_predictions_differ_by_known_factors(schedule):
    """With one and the same estimate: eps-loss = SNR * x0-loss, v-loss = x0-loss / sigma^2 (variance preserving)."""
    t = torch.tensor([0.05, 0.4, 0.95], dtype=torch.float64)
    x_0, eps = torch.randn(3, 4).double(), torch.randn(3, 4).double()

    def losses(kind):
        denoiser = GaussianDenoiser(schedule, torch.full((4,), 0.3).double(), torch.eye(4).double(), kind())
        return Simple("l2")(denoiser, x_0, None, t, eps)

    alpha, sigma = schedule(t)
    torch.testing.assert_close(losses(Eps), losses(X0) * alpha**2 / sigma**2)
    torch.testing.assert_close(losses(V), losses(X0) / sigma**2)


def test_gradient_of_a_linear_network_is_the_hand_computed_one():
    """F = w x: d loss / d w = 2 / D sum (w x_t - target) x_t."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x, c_noise, cond):
            return self.w * x

    network = Scale()
    x_0, eps, t = torch.randn(2, 6).double(), torch.randn(2, 6).double(), torch.tensor([0.3, 0.7]).double()
    loss = Simple("l2")(NetworkDenoiser(network, SCHEDULE, Eps()), x_0, None, t, eps)
    loss.sum().backward()
    x_t = add_noise(SCHEDULE, x_0, t, eps)
    torch.testing.assert_close(network.w.grad, (2 / 6 * (0.3 * x_t - eps) * x_t).sum())


def test_expected_gradient_vanishes_at_the_exact_denoiser_and_nowhere_else():
    """The loss is quadratic in a shift of the estimate, with its minimum at the posterior mean."""
    count = 40_000
    denoiser = GaussianDenoiser(SCHEDULE, torch.zeros(1).double(), torch.full((1, 1), 0.4).double())
    noise, t = Noise(1, torch.arange(count)), torch.tensor(0.3, dtype=torch.float64)
    x_0 = noise.normal(1, stream=Stream.PRIOR, dtype=torch.float64) * 0.4**0.5
    eps = noise.normal(1, stream=Stream.EPS, dtype=torch.float64)
    x_t = add_noise(SCHEDULE, x_0, t, eps)
    exact = denoiser(x_t, t).eps
    for shift, expected in ((0.0, 0.0), (0.1, 0.2), (-0.5, -1.0)):
        output = (exact + shift).requires_grad_()
        loss = Simple("l2")(NetworkDenoiser(Fixed(output), SCHEDULE, Eps()), x_0, None, t.expand(count), eps)
        (gradient,) = torch.autograd.grad(loss.sum(), output)
        assert float(gradient.mean()) == pytest.approx(expected, abs=4 * float(gradient.std()) / count**0.5)


def test_sums_by_quarter():
    """Quarters are (0, 1/4], (1/4, 1/2], ...: an edge belongs to the one that it ends."""
    t = torch.tensor([0.001, 0.25, 0.2501, 0.5, 0.75, 0.76, 1.0])
    sums, counts = sums_by_quarter(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]), t)
    assert sums.tolist() == [3.0, 12.0, 16.0, 96.0]
    assert counts.tolist() == [2.0, 2.0, 1.0, 2.0]


def test_sums_by_quarter_of_an_empty_quarter_are_0():
    sums, counts = sums_by_quarter(torch.tensor([5.0]), torch.tensor([0.6]))
    assert sums.tolist() == [0, 0, 5, 0]
    assert counts.tolist() == [0, 0, 1, 0]
