"""Losses of preferences against finite differences, and against closed forms of Gaussian models."""

import math

import pytest
import torch

from diffsweep.diffusion import (
    DPO,
    KTO,
    Compared,
    Denoised,
    Denoiser,
    Eps,
    RewardWeighted,
    Simple,
    Supervised,
    implicit_accuracy,
)
from diffsweep.schedules import CosineContinuous

DIMENSIONS, VARIANCE, BETA = 3, 0.25, 7.0
T = torch.tensor([0.2, 0.5, 0.8, 0.9], dtype=torch.float64)


class Gaussian(Denoiser):
    """The exact denoiser of data N(mu, v I), whose mean mu (D,) is a parameter."""

    def __init__(self, mean):
        super().__init__(CosineContinuous(), Eps())
        self.mean = torch.nn.Parameter(mean.clone())

    def forward(self, x_t, t, cond=None):
        alpha, sigma = self.levels(x_t, t)
        eps = sigma * (x_t - alpha * self.mean) / (alpha**2 * VARIANCE + sigma**2)
        return Denoised((x_t - sigma * eps) / alpha, eps, 0.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compared(model, reference, samples, t=T, score=None, desirable=(True, False)):
    """The losses of samples (B, K, D), those of a row at one time and with one noise."""
    eps = normal(len(samples), DIMENSIONS, seed=9)

    def losses(denoiser):
        return torch.stack([Simple()(denoiser, x, None, t, eps) for x in samples.unbind(1)], 1)

    score = torch.zeros(samples.shape[:2], dtype=torch.float64) if score is None else score
    return Compared(losses(model), losses(reference), score, torch.tensor(desirable).expand(samples.shape[:2]))


PAIRS, ZERO = normal(4, 2, DIMENSIONS, seed=1), torch.zeros(DIMENSIONS).double()
SHIFT = torch.tensor([0.2, -0.1, 0.05], dtype=torch.float64)
EVERY = [DPO(BETA), KTO(BETA, 1.5, 0.5), RewardWeighted(0.7, 3.0), Supervised()]


def test_a_model_that_is_its_reference_has_the_loss_log_2_and_prefers_nothing():
    found = compared(Gaussian(ZERO), Gaussian(ZERO), PAIRS)
    assert DPO(BETA)(found).tolist() == [math.log(2)] * 4
    assert implicit_accuracy(found).tolist() == [0.5] * 4
    assert KTO(BETA)(found).tolist() == [0.5] * 4


def test_the_gradient_of_dpo_is_its_closed_form():
    """With m = beta 2 (alpha sigma / s^2)^2 (mu - mu_ref) (w - l) / D and s^2 = alpha^2 v + sigma^2, the variance of
    x_t, the gradient by mu is - sigmoid(-m) beta 2 (alpha sigma / s^2)^2 (w - l) / D: it is away from l, towards w.
    """
    model = Gaussian(SHIFT)
    found = compared(model, Gaussian(ZERO), PAIRS)
    losses = DPO(BETA)(found)
    losses.sum().backward()
    alpha, sigma = CosineContinuous()(T)
    rate = 2 * BETA * (alpha * sigma / (alpha**2 * VARIANCE + sigma**2)) ** 2 / DIMENSIONS
    difference = PAIRS[:, 0] - PAIRS[:, 1]
    margin = rate * (difference @ SHIFT)
    torch.testing.assert_close(losses, torch.log1p(torch.exp(-margin)), rtol=0, atol=1e-12)
    closed = -(torch.sigmoid(-margin) * rate)[:, None] * difference
    torch.testing.assert_close(model.mean.grad, closed.sum(0), rtol=0, atol=1e-12)
    assert implicit_accuracy(found).tolist() == (margin > 0).double().tolist()
    assert 0 < implicit_accuracy(found).mean() < 1


@pytest.mark.parametrize("preference", EVERY, ids=lambda one: type(one).__name__)
def test_gradients_are_finite_differences(preference):
    """But for the mean z of KTO, which has no gradient: it is 0 here, since the mean of the rewards is below 0."""
    score = normal(4, 2, seed=3)

    def loss(mean):
        return preference(compared(Gaussian(mean), Gaussian(ZERO), PAIRS, score=score)).sum()

    model = Gaussian(-SHIFT)
    found = compared(model, Gaussian(ZERO), PAIRS, score=score)
    assert found.gains().mean() < 0
    preference(found).sum().backward()
    with torch.no_grad():
        steps = 1e-6 * torch.eye(DIMENSIONS, dtype=torch.float64)
        measured = torch.stack([(loss(step - SHIFT) - loss(-step - SHIFT)) / 2e-6 for step in steps])
    torch.testing.assert_close(model.mean.grad, measured, rtol=1e-7, atol=1e-8)
    assert measured.abs().min() > 1e-3


def test_dpo_finds_the_mean_for_which_the_preferences_are_those_of_a_reward():
    """If w is preferred with probability sigmoid(a (w - l)), a model with m = k mu (w - l) is best at mu = a / k."""
    count, t = 256, torch.full((256,), 0.6, dtype=torch.float64)
    pairs = normal(count, 2, DIMENSIONS, seed=4)
    reward = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    probability = torch.sigmoid((pairs[:, 0] - pairs[:, 1]) @ reward)
    model, reference, preference = Gaussian(ZERO), Gaussian(ZERO), DPO(BETA)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        both = [preference(compared(model, reference, one, t)) for one in (pairs, pairs.flip(1))]
        mean = (probability * both[0] + (1 - probability) * both[1]).mean()
        mean.backward()
        return mean

    optimizer.step(loss)
    alpha, sigma = (float(part) for part in CosineContinuous()(t[0]))
    rate = 2 * BETA * (alpha * sigma / (alpha**2 * VARIANCE + sigma**2)) ** 2 / DIMENSIONS
    torch.testing.assert_close(model.mean.detach(), reward / rate, rtol=1e-6, atol=1e-8)


def test_kto_takes_samples_alone_and_compares_them_with_the_mean():
    """Its loss falls for a desirable sample whose reward rises, and for another whose reward falls."""
    gains = torch.tensor([[0.3], [-0.1], [0.2], [0.0]], dtype=torch.float64)
    desirable = torch.tensor([[True], [True], [False], [False]])
    found = Compared(-gains, torch.zeros_like(gains), gains, desirable)
    above = BETA * (gains[:, 0] - gains.mean())
    wanted = 1 - torch.sigmoid(torch.tensor([1.0, 1.0, -1.0, -1.0]) * above)
    torch.testing.assert_close(KTO(BETA)(found), wanted, rtol=0, atol=1e-12)
    weighted = KTO(BETA, 2.0, 0.5)(found)
    torch.testing.assert_close(weighted, wanted * torch.tensor([2.0, 2.0, 0.5, 0.5]), rtol=0, atol=1e-12)
    low = Compared(-gains + 1, torch.zeros_like(gains), gains, desirable)  # the mean is below 0: z = 0
    assert float(KTO(BETA)(low)[0]) == pytest.approx(float(torch.sigmoid(torch.tensor(BETA * 0.7))))


def test_weights_by_reward_tilt_a_gaussian_by_its_exponential():
    """The weighted mean of data N(m, v) with weights exp(s x) is that of their product, m + s v: where the loss is
    least, since the optimum of the weighted squared errors is the mean of the weighted data.
    """
    mean, spread, tilt = 0.2, 0.5, 0.8
    nodes = mean + spread * torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-((nodes - mean) ** 2) / (2 * spread**2))
    model = torch.zeros((), dtype=torch.float64, requires_grad=True)
    squares = (nodes - model).square()[:, None]
    preference = RewardWeighted(1 / tilt, most=1e9)
    losses = preference(Compared(squares, None, nodes[:, None], torch.ones_like(squares).bool()))
    (gradient,) = torch.autograd.grad((density * losses).sum(), model)
    weights = density * torch.exp(tilt * nodes)
    best = float(-(gradient - 2 * model * weights.sum()) / (2 * weights.sum()))
    assert best == pytest.approx(mean + tilt * spread**2, abs=1e-9)
    cut = RewardWeighted(1.0, most=2.0)(Compared(squares * 0 + 1, None, nodes[:, None], squares > -1))
    assert float(cut.detach().max()) == 2


def test_supervised_fine_tuning_is_the_plain_loss_of_the_winners():
    found = compared(Gaussian(SHIFT), Gaussian(ZERO), PAIRS)
    assert torch.equal(Supervised()(found), found.model[:, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPO(0.0), "preference.beta must be above 0, not 0"),
        (lambda: KTO(1.0, -1.0), "preference.desirable_weight must be above 0"),
        (lambda: RewardWeighted(-0.5), "preference.temperature must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
