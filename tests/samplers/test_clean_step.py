"""Sampling down to clean data on every schedule: where sigma(0) is above 0, a last step goes from t = 0 to x0."""

import math

import pytest
import torch
from options import names, option
from slower import crossed

from diffsweep.diffusion import (
    X0,
    Eps,
    Flow,
    GaussianDenoiser,
    Impulses,
    NetworkDenoiser,
    Noise,
    Stream,
    V,
    add_noise,
    posterior,
    prior,
    steps_of,
)
from diffsweep.diffusion.spacing import SPACINGS
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.schedules import VE, Cosine, CosineContinuous, Learned

SCHEDULES = {name: option("schedule", name) for name in names("schedule")}
SCHEDULES["cosine zero terminal"] = Cosine(1000, zero_terminal_snr=True)
SAMPLERS = names("sampler")
NEVER_CLEAN = [name for name, schedule in SCHEDULES.items() if not schedule.clean_at_zero]
KINDS = {"ancestral": Ancestral, "ddim": DDIM, "ddim eta 1": lambda **settings: DDIM(eta=1.0, **settings)}


def draw(schedule, count, dimension=2):
    noise = Noise(0, torch.arange(count))
    with torch.no_grad():
        return prior(schedule, noise.normal(dimension, stream=Stream.PRIOR, dtype=torch.float64)), noise


def test_these_schedules_have_noise_at_t_0():
    assert NEVER_CLEAN == ["cosine_continuous", "learned", "ve"]


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr", "karras"])
@pytest.mark.parametrize("name", NEVER_CLEAN)
def test_the_times_end_with_two_zeros(name, spacing):
    for steps in (2, 3, 50):
        times = DDIM(steps=steps, spacing=spacing).times(SCHEDULES[name])
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[0] == 1
        assert times[-2:].tolist() == [0, 0]
        assert (times[:-1].diff() < 0).all()


def test_the_times_before_the_last_step_are_those_of_one_step_fewer():
    sampler = DDIM(steps=5)
    assert sampler.times(VE()).tolist() == [1, 0.75, 0.5, 0.25, 0, 0]
    assert DDIM(steps=3, start=0.5).times(VE()).tolist() == [0.5, 0.25, 0, 0]
    assert DDIM(steps=1).times(VE()).tolist() == [1, 0]


def test_sampling_that_stops_above_0_has_no_step_to_clean_data():
    assert DDIM(steps=4, stop=0.2).times(VE()).tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert DDIM(steps=4).times(Cosine(100)).tolist() == [1, 0.75, 0.5, 0.25, 0]


def moments(sampler, denoiser):
    """Return the exact mean and covariance of the samples that start from the true marginal at t = 1."""
    covariance = covariance_of(denoiser)
    dimension, steps = len(covariance), len(sampler.times(denoiser.schedule)) - 1
    with torch.no_grad():
        alpha, sigma = denoiser.schedule(torch.ones((), dtype=torch.float64))
    root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * torch.eye(dimension, dtype=torch.float64))
    x = (alpha * denoiser.means).repeat(1 + dimension * (1 + steps), 1)
    x[1 : 1 + dimension] += root.T
    x = sampler(denoiser, x, noise=Impulses(dimension, {(Stream.STEP, step): step for step in range(steps)}))
    response = x[1:] - x[0]
    return x[0], response.T @ response


def covariance_of(denoiser):
    return denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T


SPACING = {"edm": "karras", "ve": "uniform"}  # for EDM the last of equal steps in t are too large


@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
@pytest.mark.parametrize("name", [*NEVER_CLEAN, "edm", "flow", "vp", "sub_vp", "cosine zero terminal", "sigmoid"])
def test_gaussian_data_are_recovered(gaussian, name, kind):
    """Moments with 250 steps are near, and those extrapolated from 250 and 500 steps to infinitely many nearer."""
    denoiser = gaussian(SCHEDULES[name], V())
    coarse, fine = (
        moments(KINDS[kind](steps=steps, spacing=SPACING.get(name, "uniform"), clip="none"), denoiser)
        for steps in (250, 500)
    )
    truth = denoiser.means[0], covariance_of(denoiser)
    for ours, finer, expected in zip(coarse, fine, truth, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.04)
        torch.testing.assert_close(2 * finer - ours, expected, rtol=0, atol=0.003)


@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
@pytest.mark.parametrize("name", ["ve", "flow"])
def test_drawn_samples_have_these_moments(gaussian, name, kind):
    """3,000 samples from the prior agree within five standard errors and 0.02 for the step size and the prior."""
    denoiser, count = gaussian(SCHEDULES[name]), 3_000
    x, noise = draw(denoiser.schedule, count)
    x = KINDS[kind](steps=250, clip="none")(denoiser, x, noise=noise)
    covariance = covariance_of(denoiser)
    variances = covariance.diagonal()
    assert ((x.mean(0) - denoiser.means[0]).abs() < 5 * (variances / count).sqrt() + 0.02).all()
    error = ((variances[:, None] * variances + covariance**2) / count).sqrt()
    assert ((x.T.cov() - covariance).abs() < 5 * error + 0.02).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_final_step_goes_to_x0(gaussian, name, kind):
    denoiser, calls = gaussian(SCHEDULES[name]), []
    x, noise = draw(denoiser.schedule, 4)
    x = KINDS[kind](steps=6, clip="none")(denoiser, x, noise=noise, callback=lambda *each: calls.append(each))
    step, t, denoised, last = calls[-1]
    assert step == 5
    assert (t == 0) == (name in NEVER_CLEAN)
    assert torch.equal(last, x)
    torch.testing.assert_close(x, denoised.x0, rtol=0, atol=1e-15)
    torch.testing.assert_close(denoised.x0, denoiser(calls[-2][3], t).x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_data_that_are_one_point_are_reached_exactly(name, kind):
    point = torch.tensor([0.3, -0.8], dtype=torch.float64)
    denoiser = GaussianDenoiser(SCHEDULES[name], point, torch.zeros(2, 2, dtype=torch.float64))
    x, noise = draw(denoiser.schedule, 4)
    for steps in (1, 2, 9):
        x0 = KINDS[kind](steps=steps)(denoiser, x, noise=noise)
        torch.testing.assert_close(x0, point.expand(4, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NEVER_CLEAN, "flow", "edm", "linear", "cosine zero terminal"])
def test_single_steps_over_the_times_give_the_samples(mixture, name, kind, steps):
    assert_stepwise_is_whole(mixture(SCHEDULES[name]), KINDS[kind](steps=steps))


@pytest.mark.parametrize("name", [*NEVER_CLEAN, "flow", "linear"])
def test_one_step_over_the_times_gives_the_samples_of_one_step(mixture, name):
    for kind in KINDS.values():
        assert_stepwise_is_whole(mixture(SCHEDULES[name]), kind(steps=1))


def assert_stepwise_is_whole(denoiser, sampler):
    x, noise = draw(denoiser.schedule, 3)
    whole, state, times = sampler(denoiser, x, noise=noise), None, sampler.times(denoiser.schedule)
    for i in range(steps := len(times) - 1):
        x, state = sampler.step(denoiser, x, *times[i : i + 2], state, noise.at(i), to_clean=i == steps - 1)
    torch.testing.assert_close(x, whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NEVER_CLEAN)
def test_one_step_goes_from_noise_to_x0(gaussian, name, kind):
    denoiser = gaussian(SCHEDULES[name])
    x, noise = draw(denoiser.schedule, 4)
    x0 = KINDS[kind](steps=1, clip="none")(denoiser, x, noise=noise)
    expected = denoiser(x, torch.ones((), dtype=torch.float64)).x0
    torch.testing.assert_close(x0, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_can_be_stopped_and_continued(mixture, kind):
    """Sampling stops at t = 1/2, and continues from t = 1/2 to clean data."""
    denoiser = mixture(VE())
    x, noise = draw(denoiser.schedule, 3)
    times = KINDS[kind](steps=9).times(denoiser.schedule)
    assert times[4] == 0.5
    states = []
    KINDS[kind](steps=9)(denoiser, x, noise=noise, callback=lambda step, t, denoised, x: states.append(x))
    middle = KINDS[kind](steps=4, stop=0.5)(denoiser, x, noise=noise)
    torch.testing.assert_close(middle, states[3], rtol=1e-12, atol=1e-12)
    if kind == "ddim":
        rest = KINDS[kind](steps=5, start=0.5)(denoiser, middle, noise=noise)
        torch.testing.assert_close(rest, states[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [VE(sigma_min=0.3), CosineContinuous(log_snr_max=2.0), Learned(log_snr_max=2.0, width=4)]
)
def test_the_step_to_clean_data_removes_the_noise_of_sigma_0(kind):
    """It goes from x_t at t = 0 to E[x_0 | x_t], which is known for Gaussian data."""
    zero = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        alpha, sigma = kind(zero)
    denoiser = GaussianDenoiser(kind, torch.zeros(1).double(), torch.full((1, 1), 0.25).double())
    x_0, noise = torch.tensor([[0.4], [-0.2]], dtype=torch.float64), Noise(0, torch.arange(2))
    with torch.no_grad():
        x = add_noise(kind, x_0, zero, noise.like(x_0))
    for sampler in (DDIM(clip="none"), Ancestral(clip="none")):
        ours, _ = sampler.step(denoiser, x, zero, zero, None, noise)
        expected = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("pair", [(1.0, 0.6), (0.5, 0.1), (0.3, 0.0)])
@pytest.mark.parametrize("name", ["ve", "learned", "cosine_continuous", "edm", "flow", "sub_vp"])
def test_an_ancestral_step_draws_from_the_posterior_of_the_estimate(mixture, name, pair):
    denoiser = mixture(SCHEDULES[name])
    x, noise = draw(denoiser.schedule, 8)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in pair)
    if s == 0 and denoiser.schedule.clean_at_zero:
        return
    x_s, _ = Ancestral(clip="none").step(denoiser, x, t, s, None, noise)
    with torch.no_grad():
        mean, variance = posterior(denoiser.schedule, denoiser(x, t).x0, x, s, t)
    torch.testing.assert_close(x_s, mean + variance.sqrt() * noise.like(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_clipped_estimates_still_decompose_x_t(name, kind):
    """x = alpha x0 + sigma eps holds at every step, also at the one to clean data."""
    schedule = SCHEDULES[name]
    denoiser = GaussianDenoiser(schedule, torch.full((2,), 1.5).double(), torch.eye(2).double())
    x, noise = draw(schedule, 20)
    before = [x]

    def check(step, t, denoised, after):
        with torch.no_grad():
            alpha, sigma = schedule(t)
        assert denoised.x0.abs().max() <= 1
        torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, before[-1], rtol=1e-9, atol=1e-9)
        before.append(after)

    KINDS[kind](steps=5, clip="static")(denoiser, x, noise=noise, callback=check)
    assert len(before) == 6


def spacings(schedule):
    """Return the spacings that the schedule supports."""
    grid = ("trailing", "leading")
    return [spacing for spacing in SPACINGS if schedule.num_steps is not None or spacing not in grid]


@pytest.mark.parametrize(("name", "sampler"), crossed(list(SCHEDULES), list(SAMPLERS)))
def test_no_option_gives_nan(gaussian, name, sampler):
    """Every spacing, one step and several, every clip, and both variances where the sampler uses one."""
    schedule = SCHEDULES[name]
    x, noise = draw(schedule, 3)
    loose = {"tolerance": 1e-2} if sampler == "ode" else {}
    counts = (1, 2) if loose else (1, 2, 7)  # an adaptive solver has no history
    cases = [{"spacing": spacing, "steps": steps} for spacing in spacings(schedule) for steps in counts]
    cases += [{"clip": clip, "steps": counts[-1]} for clip in ("none", "dynamic")]
    for case in cases:
        sample = option("sampler", sampler, **case, **loose)
        for variance in ("fixed_small", "fixed_large") if sample.uses_variance else ("fixed_small",):
            assert torch.isfinite(sample(gaussian(schedule, Eps(variance)), x, noise=noise)).all(), case


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_number_of_steps_makes_a_variance_vanish_above_clean_data(name):
    """An ancestral step takes the logarithm of the variance."""
    schedule = SCHEDULES[name]
    for spacing in spacings(schedule):
        for steps in (1, 2, 49, 1000) if spacing in ("trailing", "leading") else (1, 2, 49, 1000, 4000):
            with torch.no_grad():
                pairs = steps_of(schedule, DDIM(steps=steps, spacing=spacing).times(schedule))
            values = (*pairs.at_t, *pairs.at_s, pairs.var_ts, pairs.var_post)
            assert all(torch.isfinite(value).all() for value in values)
            assert (pairs.var_post[:-1] > 0).all()
            assert (pairs.at_t.sigma > 0).all()
            assert pairs.at_s.sigma[-1] == 0


class Perfect(torch.nn.Module):
    """A network whose output is that of the exact denoiser at the time that c_noise encodes."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x, c_noise, cond):
        steps = self.denoiser.schedule.num_steps
        t = c_noise.double() / 1000 + (0 if steps is None else 1 / steps)
        return self.denoiser.output(x, t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "prediction"),
    [("cosine zero terminal", V()), ("vp", Eps()), ("sub_vp", V()), ("flow", Flow()), ("ve", X0()), ("flow", X0())],
)
def test_a_perfect_network_samples_as_the_exact_denoiser(mixture, name, prediction, kind):
    """The network's output is in the units of its prediction; a zero-terminal schedule has alpha = 0 at t = 1."""
    exact = mixture(SCHEDULES[name], prediction)
    x, noise = draw(exact.schedule, 5)
    sampler = KINDS[kind](steps=20, clip="none")
    ours = sampler(NetworkDenoiser(Perfect(exact), exact.schedule, prediction), x, noise=noise)
    torch.testing.assert_close(ours, sampler(exact, x, noise=noise), rtol=0, atol=1e-6)


def test_ancestral_on_ve_is_the_published_step():
    """SMLD's step (arXiv:2011.13456, app. F): x + (s_t^2 - s_s^2) score + sqrt(s_s^2 (s_t^2 - s_s^2) / s_t^2) z."""
    schedule = VE(0.01, 50.0)
    denoiser = GaussianDenoiser(
        schedule, torch.full((2,), 0.3, dtype=torch.float64), 0.2 * torch.eye(2, dtype=torch.float64)
    )
    x, noise = draw(schedule, 5)
    t, s = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    sigma_t, sigma_s = (0.01 * 5000**u for u in (0.8, 0.7))
    score = -(x - 0.3) / (0.2 + sigma_t**2)
    expected = x + (sigma_t**2 - sigma_s**2) * score
    expected = expected + math.sqrt(sigma_s**2 * (sigma_t**2 - sigma_s**2) / sigma_t**2) * noise.like(x)
    x_s, _ = Ancestral(clip="none").step(denoiser, x, t, s, None, noise)
    torch.testing.assert_close(x_s, expected, rtol=1e-10, atol=1e-10)
