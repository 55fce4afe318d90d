"""Objectives agree with numbers computed by hand, closed forms and gradient identities."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from diffsweep.backbones import DiT
from diffsweep.diffusion import (
    DSM,
    SSM,
    VLB,
    X0,
    Denoised,
    Denoiser,
    Eps,
    GaussianDenoiser,
    Hybrid,
    MinSNR,
    NetworkDenoiser,
    Noise,
    Simple,
    Stream,
    V,
    add_noise,
    expand_to,
    sums_by_quarter,
)
from diffsweep.schedules import EDM, VE, VP, Cosine, CosineContinuous, Flow, Learned, Linear, SubVP

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
def test_losses_are_those_computed_by_hand(loss, expected):
    error = torch.tensor([[0.5, -2.0, 0.0, 3.0], [0.0, 1.0, -0.5, 0.5]], dtype=torch.float64).reshape(2, 1, 2, 2)
    x_0, eps = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    denoiser = NetworkDenoiser(Fixed(eps + error), SCHEDULE, Eps())
    losses = Simple(loss)(denoiser, x_0, None, torch.tensor([0.2, 0.9], dtype=torch.float64), eps)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


def test_an_unknown_loss_is_refused():
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
    """For Gaussian data of variances c, E |eps - E[eps | x_t]|^2 is the mean of alpha^2 c / (alpha^2 c + sigma^2)."""
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
    """For the same estimate, eps-loss = SNR * x0-loss and v-loss = x0-loss / sigma^2 (variance preserving)."""
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


def test_sums_by_quarter_are_those_of_the_quarter_that_an_edge_ends():
    """Quarters are (0, 1/4], (1/4, 1/2], ...: an edge belongs to the one that it ends."""
    t = torch.tensor([0.001, 0.25, 0.2501, 0.5, 0.75, 0.76, 1.0])
    sums, counts = sums_by_quarter(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]), t)
    assert sums.tolist() == [3.0, 12.0, 16.0, 96.0]
    assert counts.tolist() == [2.0, 2.0, 1.0, 2.0]


def test_sums_by_quarter_of_an_empty_quarter_are_0():
    sums, counts = sums_by_quarter(torch.tensor([5.0]), torch.tensor([0.6]))
    assert sums.tolist() == [0, 0, 5, 0]
    assert counts.tolist() == [0, 0, 1, 0]


# The hybrid loss


class TwoHeads(nn.Module):
    """A network with a mean head and a variance head that share nothing, which counts its calls."""

    def __init__(self, channels=1):
        super().__init__()
        self.mean, self.variance = (nn.Conv2d(channels, channels, 1).double() for _ in range(2))
        nn.init.ones_(self.mean.weight)  # so that x0 is not far off where almost nothing is added
        nn.init.zeros_(self.mean.bias)
        self.calls = 0

    def forward(self, x, c_noise, cond):
        self.calls += 1
        return torch.cat([self.mean(x), self.variance(x).tanh()], dim=1)


def betas_of(schedule):
    """Return beta, alpha_bar and the alpha_bar before it of steps 1 .. T, from the schedule's own alphas."""
    alpha, _ = schedule(torch.arange(schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps)
    alpha_bar = alpha**2
    return 1 - alpha_bar[1:] / alpha_bar[:-1], alpha_bar[1:], alpha_bar[:-1]


def bits_of_a_step(schedule, k, x_0, x_t, x0, mix, levels):
    """Return L_{k-1} of one sample as improved-diffusion computes it, in bits per dimension; ``mix`` in [0, 1]."""
    betas, bar, before = betas_of(schedule)
    variances = betas * (1 - before) / (1 - bar)
    beta, small = (
        betas[k - 1],
        variances[max(k - 1, 1)],
    )  # its clipped log-variance: that of the second step for the first
    std = torch.exp((mix * beta.log() + (1 - mix) * small.log()) / 2)
    if k == 1:
        if levels is None:
            return -Normal(x0, std).log_prob(x_0).mean() / math.log(2)
        half = 1 / (levels - 1)
        ends = (x_0 - half, x_0 + half)
        low, high = (norm.cdf(end.numpy(), x0.detach().numpy(), std.detach().numpy()) for end in ends)
        low, high = np.where(x_0 < -1 + half, 0, low), np.where(x_0 > 1 - half, 1, high)
        return torch.tensor(-np.log2(high - low).mean())
    from_x_0 = before[k - 1].sqrt() * beta / (1 - bar[k - 1])
    from_x_t = (1 - before[k - 1]) * (1 - beta).sqrt() / (1 - bar[k - 1])
    posterior = Normal(from_x_0 * x_0 + from_x_t * x_t, variances[k - 1].sqrt())
    return kl_divergence(posterior, Normal(from_x_0 * x0 + from_x_t * x_t, std)).mean() / math.log(2)


def hybrid_case(schedule, kind, k):
    network = TwoHeads()
    denoiser = NetworkDenoiser(network, schedule, kind("learned_range"))
    x_0 = (torch.rand(len(k), 1, 3, 3).double() * 17).floor() / 8 - 1  # 17 levels
    return network, denoiser, x_0, torch.randn_like(x_0), torch.tensor(k).double() / schedule.num_steps


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("kind", [Eps, X0, V])
@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(50)])
def test_hybrid_is_simple_plus_a_thousandth_of_the_bound(schedule, kind, levels):
    k = [1, 2, 3, 20, schedule.num_steps]
    _, denoiser, x_0, eps, t = hybrid_case(schedule, kind, k)
    losses = Hybrid(levels=levels)(denoiser, x_0, None, t, eps)
    x_t = add_noise(schedule, x_0, t, eps)
    x0, _, mix = denoiser(x_t, t)
    bits = torch.stack([bits_of_a_step(schedule, *case, levels) for case in zip(k, x_0, x_t, x0, mix, strict=True)])
    added = losses - Simple()(denoiser, x_0, None, t, eps)
    torch.testing.assert_close(added, 0.001 * schedule.num_steps * bits, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("vlb_weight", [0.0, 0.001, 1.0])
def test_the_bound_in_hybrid_is_t_times_the_term(vlb_weight):
    """It is the same estimate as VLB, and L_t itself at T = 1000."""
    _, denoiser, x_0, eps, t = hybrid_case(SCHEDULE, Eps, [1, 2, 300, 1000])
    hybrid, simple, bound = (
        objective(denoiser, x_0, None, t, eps) for objective in (Hybrid(vlb_weight=vlb_weight), Simple(), VLB())
    )
    torch.testing.assert_close(hybrid, simple + vlb_weight * bound, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Eps, X0, V])
def test_the_mean_learns_from_simple_only_and_the_variance_from_the_bound_only(kind):
    k = [1, 2, 300, 1000]
    network, denoiser, x_0, eps, t = hybrid_case(SCHEDULE, kind, k)
    both = list(network.mean.parameters()), list(network.variance.parameters())
    hybrid, simple = (objective(denoiser, x_0, None, t, eps).sum() for objective in (Hybrid(), Simple()))
    of_mean, of_variance = (torch.autograd.grad(hybrid, part, retain_graph=True) for part in both)
    torch.testing.assert_close(of_mean, torch.autograd.grad(simple, both[0], retain_graph=True), rtol=1e-12, atol=1e-14)
    assert not any(part.any() for part in torch.autograd.grad(simple, both[1]))
    x_t = add_noise(SCHEDULE, x_0, t, eps)
    x0, _, mix = denoiser(x_t, t)
    cases = zip(k, x_0, x_t, x0.detach(), mix, strict=True)
    bound = torch.stack([bits_of_a_step(SCHEDULE, *case, None) for case in cases]).sum()
    expected = torch.autograd.grad(bound, both[1])
    torch.testing.assert_close(of_variance, expected, rtol=1e-6, atol=1e-9)
    assert all(part.any() for part in of_variance)


def test_hybrid_calls_the_network_once():
    network, denoiser, x_0, eps, t = hybrid_case(SCHEDULE, Eps, [1, 2, 1000])
    Hybrid()(denoiser, x_0, None, t, eps).sum().backward()
    assert network.calls == 1


def test_hybrid_weighs_simple_and_not_the_bound():
    _, denoiser, x_0, eps, t = hybrid_case(SCHEDULE, V, [1, 2, 300, 1000])

    def losses(objective):
        return objective(denoiser, x_0, None, t, eps)

    ours, plain = losses(Hybrid("l1", MinSNR())), losses(Hybrid("l1"))
    torch.testing.assert_close(
        ours - plain, losses(Simple("l1", MinSNR())) - losses(Simple("l1")), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("levels", [None, 17, 256])
@pytest.mark.parametrize("kind", [Eps, X0, V])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_hybrid_is_finite_in_float32_on_a_long_cosine_chain(kind, levels, scale):
    """It is so at every step, with an output of 0, as at the start of training, and with large outputs."""
    schedule, network = Cosine(4000), TwoHeads().float()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=scale) if scale else nn.init.zeros_(parameter)
    t = torch.arange(1, 4001) / 4000
    x_0 = ((torch.rand(4000, 1, 2, 2) * 17).floor() / 8 - 1).float()
    denoiser = NetworkDenoiser(network, schedule, kind("learned_range"))
    losses = Hybrid(levels=levels)(denoiser, x_0, None, t, torch.randn_like(x_0))
    assert losses.isfinite().all()
    losses.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.variance.bias.grad.any()


def test_hybrid_in_float32_is_that_of_float64():
    network, denoiser, x_0, eps, t = hybrid_case(Cosine(4000), V, [1, 2, 3, 100, 2000, 3999, 4000])
    exact = Hybrid(levels=17)(denoiser, x_0, None, t, eps)
    network.float()
    losses = Hybrid(levels=17)(denoiser, x_0.float(), None, t.float(), eps.float())
    torch.testing.assert_close(losses.double(), exact, rtol=1e-3, atol=1e-5)


def test_hybrid_refuses_a_negative_weight():
    with pytest.raises(ValueError, match="vlb_weight"):
        Hybrid(vlb_weight=-0.1)


# The variational bound in continuous time


MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.25]], dtype=torch.float64)
CONTINUOUS = [VP(), SubVP(), VE(), EDM(), Flow(), CosineContinuous()]


def nodes():
    """Return x_0 and eps (81, 2) and weights (81,), whose sums are the exact expectations of quadratics."""
    z, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(3))
    z, weight = torch.cartesian_prod(*[z] * 4), torch.cartesian_prod(*[weight / weight.sum()] * 4).prod(1)
    return MEAN + z[:, :2] @ torch.linalg.cholesky(COVARIANCE).T, z[:, 2:], weight


def mean_over_time(objective, schedule, count=300, denoiser=None):
    """Return the mean over x_0 and eps, exactly, and over uniform t by Gauss and Legendre."""
    x_0, eps, weight = nodes()
    u, of_u = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(count))
    t = schedule.t_min + (schedule.t_max - schedule.t_min) * (u + 1) / 2
    denoiser = denoiser if denoiser is not None else GaussianDenoiser(schedule, MEAN, COVARIANCE)
    rows = [part.repeat(count, 1) for part in (x_0, eps)]
    losses = objective(denoiser, rows[0], None, t.repeat_interleave(len(weight)), rows[1])
    return (of_u / 2) @ losses.reshape(count, -1) @ weight


def bound_in_closed_form(schedule):
    """Return the bound of Gaussian data, in bits per dimension.

    Variances c give the integral of I-MMSE, log(1 + c SNR) / 2 from end to end.
    """
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    high, low = schedule.log_snr(ends)
    c = torch.linalg.eigvalsh(COVARIANCE)
    diffusion = 0.5 * (torch.log1p(c * high.exp()) - torch.log1p(c * low.exp())).mean()
    decoder = 0.5 * (math.log(2 * math.pi * math.e) - high)
    prior = 0.5 * low.exp() * (COVARIANCE.diagonal() + MEAN**2).mean()
    return (diffusion + decoder + prior) / math.log(2)


def entropy():
    return MultivariateNormal(MEAN, COVARIANCE).entropy() / 2 / math.log(2)


def learned(seed=0, low=-5.0, high=13.3, width=3):
    """Return a learned schedule whose shape depends on the seed, with the same ends."""
    schedule = Learned(low, high, width).double()
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        schedule.l1.weight.fill_(1.0)
        schedule.l1.bias.fill_(0.0)
        schedule.l2.weight.uniform_(2.0, 8.0, generator=drawn)
        schedule.l2.bias.uniform_(-6.0, 0.0, generator=drawn)
        schedule.l3.weight.uniform_(0.0, 3.0, generator=drawn)
    return schedule


@pytest.mark.parametrize(
    "schedule", [learned(), CosineContinuous(), CosineContinuous(8, 32), VE(), Flow(0.01), VP(t_min=0.01)]
)
def test_continuous_vlb_is_the_bound_in_closed_form(schedule):
    ours = mean_over_time(VLB(), schedule)
    torch.testing.assert_close(ours, bound_in_closed_form(schedule), rtol=1e-7, atol=0)


def test_continuous_vlb_of_the_exact_denoiser_is_the_negative_log_likelihood():
    """The bound is tight where the ends are far enough out."""
    schedule = learned(low=-16.0, high=16.0)
    torch.testing.assert_close(mean_over_time(VLB(), schedule), entropy(), rtol=0, atol=2e-6)


def test_continuous_vlb_by_random_times_is_the_negative_log_likelihood():
    """As in training, each sample has one (x_0, t, eps), with stratified times."""
    count, schedule = 20_000, learned(low=-16.0, high=16.0)
    noise = Noise(0, torch.arange(count))
    x_0 = MEAN + noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    eps = noise.normal(2, stream=Stream.EPS, dtype=torch.float64)
    t = schedule.time_at(noise.uniform(stream=Stream.TIME, dtype=torch.float64))
    losses = VLB()(GaussianDenoiser(schedule, MEAN, COVARIANCE), x_0, None, t, eps).detach()
    assert abs(losses.mean() - entropy()) < 4 * losses.std() / count**0.5


@pytest.mark.slow  # many draws
def test_continuous_vlb_does_not_depend_on_the_shape_of_the_schedule():
    """It depends on the ends alone; the variance of its estimate depends on the shape too."""
    schedules = [learned(seed) for seed in range(3)]
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    shapes = torch.stack([schedule.log_snr(t).detach() for schedule in schedules])
    assert (shapes.max(0).values - shapes.min(0).values).max() > 1
    denoiser_of = [GaussianDenoiser(schedule, MEAN + 0.2, 1.5 * COVARIANCE) for schedule in schedules]  # a wrong one
    bounds = torch.stack(
        [mean_over_time(VLB(), part, 300, wrong) for part, wrong in zip(schedules, denoiser_of, strict=True)]
    )
    torch.testing.assert_close(bounds, bounds[:1].expand(3), rtol=1e-7, atol=0)
    assert bounds[0] > bound_in_closed_form(schedules[0]) + 0.05
    wider = learned(0, high=9.0)
    assert abs(mean_over_time(VLB(), wider) - bound_in_closed_form(schedules[0])) > 1e-5


def test_gradients_of_the_endpoints_are_those_of_the_bound_in_closed_form():
    """At the exact denoiser the mean over t has no gradient for the shape."""
    schedule = learned(low=-1.0, high=3.0)
    ends = [schedule.gamma_0, schedule.gamma_1]
    shape = [parameter for name, parameter in schedule.named_parameters() if not name.startswith("gamma")]
    ours = torch.autograd.grad(mean_over_time(VLB(), schedule), [*ends, *shape])
    expected = torch.autograd.grad(bound_in_closed_form(schedule), ends)
    torch.testing.assert_close(ours[:2], expected, rtol=1e-6, atol=0)
    assert all(part.abs().max() < 1e-8 for part in ours[2:])


def test_continuous_vlb_is_the_code_length_of_discrete_data():
    """With half a level to each side it is about the density times a level's width, where sigma is large against it."""
    schedule = CosineContinuous(log_snr_max=2.0)
    x_0, eps = torch.zeros(5, 2).double(), torch.randn(5, 2).double() * 0.1
    t = torch.linspace(0.1, 0.9, 5).double()
    denoiser = GaussianDenoiser(schedule, MEAN, COVARIANCE)
    density, levels = (VLB(levels)(denoiser, x_0, None, t, eps) for levels in (None, 2001))
    torch.testing.assert_close(levels, density + math.log2(1000), rtol=0, atol=1e-5)


def test_discrete_vlb_trains_mean_and_variance_by_the_bound():
    k = [2, 300, 1000]
    network, denoiser, x_0, eps, t = hybrid_case(SCHEDULE, X0, k)
    ours = torch.autograd.grad(VLB()(denoiser, x_0, None, t, eps).sum(), network.parameters())
    x_t = add_noise(SCHEDULE, x_0, t, eps)
    x0, _, mix = denoiser(x_t, t)
    terms = [bits_of_a_step(SCHEDULE, *case, None) for case in zip(k, x_0, x_t, x0, mix, strict=True)]
    expected = torch.autograd.grad(1000 * torch.stack(terms).sum(), network.parameters())
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


# Score matching


class LinearScore(Denoiser):
    """A denoiser with the score s(x) = a - b x at every time."""

    def __init__(self, schedule, a=0.2, b=0.7):
        super().__init__(schedule)
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, x_t, t, cond=None):
        alpha, sigma = (expand_to(value, x_t) for value in self.schedule(t))
        score = self.a - self.b * x_t
        return Denoised((x_t + sigma**2 * score) / alpha, -sigma * score)


TIMES = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)


def g_squared(schedule, t, step=1e-6):
    """Return d sigma^2 / dt - 2 dlog(alpha) / dt sigma^2, by central differences."""
    (alpha_up, sigma_up), (alpha_down, sigma_down) = schedule(t + step), schedule(t - step)
    rate_of_alpha = (alpha_up.log() - alpha_down.log()) / (2 * step)
    return (sigma_up**2 - sigma_down**2) / (2 * step) - 2 * rate_of_alpha * schedule(t)[1] ** 2


def tempered(schedule, t):
    return t.sqrt() * schedule(t)[1]


@pytest.mark.parametrize(
    ("weight", "factor"),
    [
        ("one", lambda schedule, t: torch.ones_like(t)),
        ("sigma2", lambda schedule, t: schedule(t)[1] ** 2),
        ("likelihood", g_squared),
        (tempered, tempered),
    ],
)
@pytest.mark.parametrize("schedule", CONTINUOUS)
def test_dsm_is_its_definition(schedule, weight, factor):
    """It is lambda |s - grad log q(x_t | x_0)|^2 with the gradient taken by autograd."""
    x_0, eps = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    denoiser = LinearScore(schedule)
    losses = DSM(weight)(denoiser, x_0, None, TIMES, eps)
    x_t = add_noise(schedule, x_0, TIMES, eps).requires_grad_()
    alpha, sigma = (value[:, None] for value in schedule(TIMES))
    (truth,) = torch.autograd.grad(Normal(alpha * x_0, sigma).log_prob(x_t).sum(), x_t)
    squares = (denoiser.a - denoiser.b * x_t - truth).square().mean(1)
    torch.testing.assert_close(losses, factor(schedule, TIMES) * squares, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weight", ["one", "sigma2"])
def test_dsm_and_ssm_work_on_a_grid_but_for_rates(weight):
    x_0, eps, t = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.tensor([0.001, 0.2, 0.5, 1.0]).double()
    for objective in (DSM, SSM):
        assert objective(weight)(LinearScore(SCHEDULE), x_0, None, t, eps).isfinite().all()
        with pytest.raises(ValueError, match="rate"):
            objective("likelihood")(LinearScore(SCHEDULE), x_0, None, t, eps)


def test_an_unknown_weight_is_refused():
    for objective in (DSM, SSM):
        with pytest.raises(ValueError, match="one, sigma2, likelihood"):
            objective("snr")


def test_dsm_by_sigma2_is_the_simple_loss_on_eps():
    x_0, eps = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    for schedule in CONTINUOUS:
        dsm, simple = (objective(LinearScore(schedule), x_0, None, TIMES, eps) for objective in (DSM(), Simple()))
        torch.testing.assert_close(dsm, simple, rtol=1e-10, atol=0)


def test_dsm_by_the_likelihood_is_the_continuous_bound_in_other_units():
    """g^2 |s - truth|^2 / 2 in nats is the part of the bound between the ends."""
    x_0, eps = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    for schedule in (VE(), CosineContinuous()):
        wrong, right = (
            GaussianDenoiser(schedule, torch.full((3,), m).double(), torch.eye(3).double()) for m in (0.5, 0)
        )
        nats, bits = (
            objective(wrong, x_0, None, TIMES, eps) - objective(right, x_0, None, TIMES, eps)
            for objective in (DSM("likelihood"), VLB())
        )
        torch.testing.assert_close(0.5 * nats / math.log(2), bits, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weight", ["one", "sigma2", "likelihood", tempered])
@pytest.mark.parametrize("schedule", [VP(), VE(), Flow()])
def test_ssm_has_the_gradients_of_half_of_dsm(schedule, weight):
    """They are equal in expectation, which is exact here; the values differ by a constant in the score."""
    x_0, eps, weights = nodes()
    for t in TIMES:

        def expected(objective, *coefficients, t=t):
            denoiser = LinearScore(schedule, *coefficients)
            loss = weights @ objective(weight)(denoiser, x_0, None, t.expand(len(x_0)), eps)
            return loss.detach(), torch.autograd.grad(loss, denoiser.parameters())

        offsets = []
        for coefficients in ((0.2, 0.7), (-1.0, 0.1), (0.0, 2.0)):
            (ssm, of_ssm), (dsm, of_dsm) = expected(SSM, *coefficients), expected(DSM, *coefficients)
            torch.testing.assert_close(of_ssm, tuple(part / 2 for part in of_dsm), rtol=1e-8, atol=1e-8)
            offsets.append(ssm - dsm / 2)
        scale = float(offsets[0].abs())
        torch.testing.assert_close(torch.stack(offsets), offsets[0].expand(3), rtol=0, atol=1e-8 * scale)


def test_ssm_of_a_linear_score_is_that_computed_by_hand():
    """For s = a - b x in D numbers it is lambda (-b + |s|^2 / (2 D)) for any signs."""
    x_0, eps, schedule = torch.randn(4, 3).double(), torch.randn(4, 3).double(), VP()
    losses = SSM()(LinearScore(schedule, 0.2, 0.7), x_0, None, TIMES, eps)
    score = 0.2 - 0.7 * add_noise(schedule, x_0, TIMES, eps)
    expected = schedule(TIMES)[1] ** 2 * (-0.7 + score.square().mean(1) / 2)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)


PRECISION = torch.tensor([[1.0, 0.75], [0.75, 1.5]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ssm_slices_average_to_the_trace(dtype):
    """With random signs v^T J v is the trace of J and +-2 J_01, for a score whose numbers depend on each other."""
    count, schedule, t = 20_000, VP(), torch.tensor(0.1, dtype=torch.float64)
    noise = Noise(0, torch.arange(count))
    x_0, eps = (noise.normal(2, stream=stream, dtype=dtype) for stream in (Stream.PRIOR, Stream.EPS))

    class Correlated(Denoiser):
        def forward(self, x_t, t, cond=None):
            _, sigma = (expand_to(value, x_t) for value in self.schedule(t))
            return Denoised(x_t, sigma * (x_t @ PRECISION.to(x_t)))

    score = add_noise(schedule, x_0, t.to(dtype), eps) @ PRECISION.to(dtype)
    expected = (
        -(noise.uniform(2, stream=Stream.SIGNS) - 0.5).sign().prod(1)
    )  # the product of both signs; it enters as -J does
    for keyed in (noise, None):
        losses = SSM("one")(Correlated(schedule), x_0, None, t.to(dtype).expand(count), eps, keyed)
        slices = 2 * (losses - 0.5 * score.square().mean(1)).double()
        signs = (slices + PRECISION.trace()) / (2 * PRECISION[0, 1])
        assert signs.isfinite().all()
        assert signs.abs().sub(1).abs().median() < torch.finfo(dtype).eps * 100
        assert abs(signs.mean()) < 0.03
        assert abs((signs * eps[:, 0].double().sign()).mean()) < 0.03
        assert torch.equal(signs.sign(), expected.double()) == (keyed is noise)


def test_ssm_does_not_depend_on_the_noise_given_x_t():
    """Any (x_0, eps) with the same x_t has the same loss."""
    schedule, x_0, eps = VP(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    alpha, sigma = (value[:, None] for value in schedule(TIMES))
    same = x_0 + 0.3 / alpha, eps - 0.3 / sigma
    ours, others = (SSM()(LinearScore(schedule), a, None, TIMES, b) for a, b in ((x_0, eps), same))
    torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-12)


def test_ssm_works_without_gradients_and_keeps_nothing():
    schedule, x_0, eps = VP(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    denoiser = LinearScore(schedule)
    with torch.no_grad():
        losses = SSM()(denoiser, x_0, None, TIMES, eps)
        assert not torch.is_grad_enabled()
    assert losses.grad_fn is None
    assert denoiser.b.grad is None
    torch.testing.assert_close(losses, SSM()(denoiser, x_0, None, TIMES, eps).detach())


def test_ssm_works_where_no_weight_is_trained():
    denoiser = LinearScore(VP()).requires_grad_(False)
    losses = SSM()(denoiser, torch.randn(4, 3).double(), None, TIMES, torch.randn(4, 3).double())
    assert losses.isfinite().all()


def test_ssm_is_a_function_of_its_arguments():
    """It draws nothing from a generator, so that validation is fixed and a sample's loss is the same in any batch."""
    schedule, x_0, eps = VP(), torch.randn(4, 2).double(), torch.randn(4, 2).double()
    denoiser = GaussianDenoiser(schedule, MEAN, COVARIANCE)
    state = torch.get_rng_state()
    losses = SSM()(denoiser, x_0, None, TIMES, eps)
    assert torch.equal(torch.get_rng_state(), state)
    flipped = SSM()(denoiser, x_0.flip(0), None, TIMES.flip(0), eps.flip(0)).flip(0)
    torch.testing.assert_close(flipped, losses, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sliced_score_matching_trains_a_network_with_attention(checkpointing):
    """Its gradient, which is of second order in the network, is that of finite differences."""
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "channels": 16, "depth": 1, "num_heads": 2}
    network = DiT(1, 1, 8, **sizes, checkpointing=checkpointing).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    denoiser = NetworkDenoiser(network, VP(), Eps())
    x_0, eps, t = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 1, 8, 8).double(), torch.tensor([0.3, 0.8])
    weight = network.blocks[0].attention.to_qkv.weight

    def loss():
        return SSM()(denoiser, x_0, None, t.double(), eps).mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, h = torch.randn_like(weight), 1e-5
    with torch.no_grad():
        after, before = (weight.add_(step * direction) is not None and loss() for step in (h, -2 * h))
    torch.testing.assert_close((gradient * direction).sum(), (after - before) / (2 * h), rtol=1e-5, atol=1e-8)
