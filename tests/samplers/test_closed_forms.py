"""Samplers on Gaussian data, where each step is a known affine map, and the order of DDIM."""

import itertools
import math

import pytest
import torch

from diffsweep.diffusion import Denoised, Denoiser, Eps, GaussianDenoiser, Noise, Stream, posterior, prior
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.schedules import Cosine, Linear


def scalar(schedule, variance=0.3, mean=0.4, prediction=None):
    mean, covariance = torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64)
    return GaussianDenoiser(schedule, mean, covariance, prediction)


def draw(count, dimension=1, seed=0):
    noise = Noise(seed, torch.arange(count))
    return noise.normal(dimension, stream=Stream.PRIOR, dtype=torch.float64), noise


@pytest.mark.parametrize("steps", [1, 3, 50, 1000])
@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)], ids=["linear", "cosine"])
def test_ddim_is_the_product_of_its_affine_steps(schedule, steps):
    """x_s - alpha_s mu = (alpha_s alpha_t c + sigma_s sigma_t) / (alpha_t^2 c + sigma_t^2) (x_t - alpha_t mu)."""
    x, _ = draw(5)
    ours = DDIM(steps=steps, clip="none")(scalar(schedule), x)
    alpha, sigma = schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    factors = (alpha[1:] * alpha[:-1] * 0.3 + sigma[1:] * sigma[:-1]) / (alpha[:-1] ** 2 * 0.3 + sigma[:-1] ** 2)
    torch.testing.assert_close(ours, 0.4 + factors.prod() * (x - alpha[0] * 0.4), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [1, 10, 200])
def test_ancestral_has_the_moments_of_its_recursion(variance, steps):
    """Mean and variance are computed step by step in plain numbers, and compared with 20,000 samples."""
    schedule, count = Linear(1000), 20_000
    x, noise = draw(count)
    x = Ancestral(steps=steps, clip="none")(scalar(schedule, prediction=Eps(variance)), prior(schedule, x), noise=noise)
    times = [i / steps for i in range(steps, -1, -1)]
    levels = [tuple(float(v) for v in schedule(torch.tensor(t, dtype=torch.float64))) for t in times]
    mean, var = 0.0, levels[0][1] ** 2
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in itertools.pairwise(levels):
        ratio = alpha_t / alpha_s
        forward = sigma_t**2 - ratio**2 * sigma_s**2
        backward = forward * sigma_s**2 / sigma_t**2
        gain = alpha_t * 0.3 / (alpha_t**2 * 0.3 + sigma_t**2)  # E[x_0 | x_t] = 0.4 + gain (x_t - alpha_t 0.4)
        slope = ratio * sigma_s**2 / sigma_t**2 + alpha_s * forward / sigma_t**2 * gain
        mean = slope * mean + alpha_s * forward / sigma_t**2 * (0.4 - gain * alpha_t * 0.4)
        added = 0.0 if sigma_s == 0 else backward if variance == "fixed_small" else forward
        var = slope**2 * var + added
    assert float(x.mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(var / count))
    assert float(x.var()) == pytest.approx(var, rel=4.5 * math.sqrt(2 / count))


def test_learned_variance_lies_between_on_the_log_scale():
    """A tensor of mixes m, one for each number, gives log v = (1 - m) log v_small + m log v_large."""
    schedule = Linear(100)
    mix = torch.tensor([[0.0, 0.25], [0.7, 1.0]], dtype=torch.float64)

    class Learned(Denoiser):
        def forward(self, x_t, t, cond=None):
            return Denoised(torch.zeros_like(x_t), torch.zeros_like(x_t), mix)

    x, noise = draw(2, 2)
    t, s = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x_s, _ = Ancestral(clip="none").step(Learned(schedule), x, t, s, None, noise)
    z = noise.like(x)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    large = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    small = large * sigma_s**2 / sigma_t**2
    torch.testing.assert_close(x_s, small ** ((1 - mix) / 2) * large ** (mix / 2) * z, rtol=1e-10, atol=0)


@pytest.mark.parametrize("pair", [(1.0, 0.999), (0.5, 0.499), (1.0, 0.0), (0.9, 0.2), (0.003, 0.001), (0.4321, 0.1234)])
@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)], ids=["linear", "cosine"])
def test_ddim_with_eta_1_is_the_ancestral_step(schedule, pair, mixture):
    denoiser = mixture(schedule)
    x, noise = draw(8, 2)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in pair)
    ddim, _ = DDIM(eta=1.0, clip="none").step(denoiser, x, t, s, None, noise)
    ancestral, _ = Ancestral(clip="none").step(denoiser, x, t, s, None, noise)
    torch.testing.assert_close(ddim, ancestral, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_with_eta_1_gives_the_ancestral_samples(steps, mixture):
    denoiser = mixture(Linear(1000))
    x, noise = draw(8, 2)
    samples = [sampler(denoiser, x, noise=noise) for sampler in (DDIM(eta=1.0, steps=steps), Ancestral(steps=steps))]
    torch.testing.assert_close(*samples, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", [(0.8, 0.7), (1.0, 0.3), (0.02, 0.001)])
def test_an_ancestral_step_draws_from_the_posterior_of_the_estimate(pair, mixture):
    schedule = Cosine(1000)
    denoiser = mixture(schedule)
    x, noise = draw(8, 2)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in pair)
    x_s, state = Ancestral(clip="none").step(denoiser, x, t, s, None, noise)
    mean, variance = posterior(schedule, denoiser(x, t).x0, x, s, t)
    torch.testing.assert_close(x_s, mean + variance.sqrt() * noise.like(x), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.denoised.x0, denoiser(x, t).x0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_ddim_keeps_the_marginal_of_known_data(eta):
    """With x_0 known (zero variance), x_s is alpha_s x_0 + sigma_s eps in law for every eta: eq. 12 of the paper."""
    schedule, count = Linear(1000), 20_000
    denoiser = scalar(schedule, variance=0.0)
    x, noise = draw(count, seed=2)
    t, s = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    x_s, _ = DDIM(eta=eta, clip="none").step(denoiser, alpha_t * 0.4 + sigma_t * x, t, s, None, noise)
    assert float(x_s.mean()) == pytest.approx(float(alpha_s * 0.4), abs=4.5 * float(sigma_s) / count**0.5)
    assert float(x_s.var()) == pytest.approx(float(sigma_s**2), rel=4.5 * (2 / count) ** 0.5)


def slope(steps, errors):
    x, y = torch.tensor(steps).double().log(), -torch.tensor(errors).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


STEPS = [10, 20, 40, 80, 160]


@pytest.mark.parametrize("schedule", [Linear(1000), Cosine(1000)], ids=["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["log_snr", "uniform"])
def test_ddim_is_of_first_order_on_gaussian_data(schedule, spacing):
    """On the ODE's solution x - alpha mu is proportional to the marginal's standard deviation."""
    denoiser, (x, _) = scalar(schedule, variance=0.05), draw(100)
    begin, end = 0.95, 0.05
    levels = schedule(torch.tensor([begin, end], dtype=torch.float64))
    deviation = (levels[0] ** 2 * 0.05 + levels[1] ** 2).sqrt()
    exact = levels[0][1] * 0.4 + deviation[1] / deviation[0] * (x - levels[0][0] * 0.4)
    errors = []
    for steps in STEPS:
        ours = DDIM(steps=steps, spacing=spacing, start=begin, stop=end, clip="none")(denoiser, x)
        errors.append(float((ours - exact).abs().mean()))
    assert 0.8 <= slope(STEPS, errors) <= 1.3
    assert errors[-1] < 0.01


def test_ddim_is_of_first_order_on_a_mixture(mixture):
    """The reference has 5,120 steps, uniform in log-SNR on a finite range."""
    denoiser, (x, _) = mixture(Cosine(1000)), draw(100, 2)

    def sampled(steps):
        return DDIM(steps=steps, spacing="log_snr", start=0.95, stop=0.05, clip="none")(denoiser, x)

    exact = sampled(5_120)
    errors = [float((sampled(steps) - exact).norm(dim=1).mean()) for steps in STEPS]
    assert 0.8 <= slope(STEPS, errors) <= 1.3
    assert DDIM(eta=0).order == 1
    assert DDIM(eta=0.5).order is None
    assert Ancestral().order is None


def test_clip_none_static_and_dynamic_by_hand():
    """Dynamic clipping scales a sample's 99.5th percentile of |x0|, where it is above 1, to 1 (Imagen)."""
    x0 = torch.linspace(-3, 2, 1001, dtype=torch.float64).repeat(2, 1)
    x0[1] /= 4

    class Constant(Denoiser):
        def forward(self, x_t, t, cond=None):
            alpha, sigma = self.schedule(t)
            return Denoised(x0, (x_t - alpha * x0) / sigma)

    x, noise = draw(2, 1001)
    t, s = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    results = {
        clip: DDIM(clip=clip).step(Constant(Linear(10)), x, t, s, None, noise)[0]
        for clip in ("none", "static", "dynamic")
    }
    torch.testing.assert_close(results["none"], x0)
    torch.testing.assert_close(results["static"], x0.clamp(-1, 1))
    ordered = x0[0].abs().sort().values
    position = 0.995 * 1000
    threshold = torch.lerp(ordered[int(position)], ordered[int(position) + 1], position - int(position))
    torch.testing.assert_close(
        results["dynamic"][0], x0[0].clamp(-threshold, threshold) / threshold, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(results["dynamic"][1], x0[1])  # its percentile is below 1


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match=r"sampler\.eta"):
        DDIM(eta=eta)
