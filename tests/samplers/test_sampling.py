"""What all samplers share: counted noise and its temperature, the stop at a NaN, DDIM's inversion."""

import math

import pytest
import torch

from diffsweep.diffusion import (
    Denoised,
    Denoiser,
    GaussianDenoiser,
    Impulses,
    Noise,
    StepNoise,
    Stream,
    counting,
    prior,
    spaced_times,
)
from diffsweep.diffusion.noise_ahead import like_over
from diffsweep.samplers import DDIM, ODE, Ancestral, DPMSolverPP, Euler, EulerMaruyama, Heun, Langevin
from diffsweep.samplers.watch import NotFinite, Watch, tested_later
from diffsweep.schedules import EDM, VE, VP, Cosine, Flow, Level, Linear

DRAWING = {
    "ancestral": Ancestral,
    "ddim": lambda **settings: DDIM(eta=0.7, **settings),
    "heun": lambda **settings: Heun(s_churn=3.0, **settings),
    "euler_maruyama": EulerMaruyama,
    "sde": lambda **settings: DPMSolverPP(variant="sde", **settings),
    "langevin": lambda **settings: Langevin(corrections=2, **settings),
}


def covariance(sampler, denoiser):
    """Return the exact covariance of the samples that begin at the mean, by impulses in place of the steps' noise."""
    noise, mean = Impulses(2, {}), torch.zeros(1, 2, dtype=torch.float64)
    sampler(denoiser, mean, noise=noise)
    x = sampler(denoiser, mean.repeat(3 + 2 * len(noise.draws), 1), noise=noise)
    return (x[3:] - x[0]).T @ (x[3:] - x[0])


@pytest.mark.parametrize("name", DRAWING)
def test_the_temperature_is_the_size_of_the_noise(gaussian, name):
    """Samples of Gaussian data are affine in the noise, so half the noise gives a quarter of the covariance."""
    denoiser = gaussian(Linear(100))
    whole, half, none = (
        covariance(DRAWING[name](steps=12, clip="none", temperature=temperature), denoiser)
        for temperature in (1.0, 0.5, 0.0)
    )
    assert whole.diagonal().min() > 1e-3
    torch.testing.assert_close(half, whole / 4, rtol=1e-12, atol=0)
    assert not none.any()


def test_a_single_step_has_the_temperature_too(gaussian):
    denoiser, sampler, noise = gaussian(Linear(100)), Ancestral(temperature=0.3), Noise(0, torch.arange(4))
    x, (t, s) = noise.like(torch.zeros(4, 2, dtype=torch.float64)), torch.tensor([0.8, 0.5], dtype=torch.float64)
    cold, warm = (Ancestral(temperature=tau).step(denoiser, x, t, s, None, noise)[0] for tau in (0.0, 1.0))
    torch.testing.assert_close(sampler.step(denoiser, x, t, s, None, noise)[0], cold + 0.3 * (warm - cold))


@pytest.mark.parametrize("kind", [DDIM, Euler, DPMSolverPP, Heun, ODE])
def test_a_solver_that_draws_nothing_refuses_a_temperature(kind):
    with pytest.raises(ValueError, match=r"sampler\.temperature=0\.5 has nothing to act on.*use sampler=ancestral"):
        kind(temperature=0.5)
    assert kind(temperature=1.0).temperature == 1


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_a_negative_or_infinite_temperature_is_refused(bad):
    with pytest.raises(ValueError, match=r"sampler\.temperature is at least 0 and finite"):
        Ancestral(temperature=bad)


class Breaks(Denoiser):
    """An exact denoiser with one NaN or infinite number below a time."""

    def __init__(self, schedule, below, value):
        super().__init__(schedule)
        self.exact = GaussianDenoiser(schedule, torch.zeros(2).double(), torch.eye(2).double())
        self.below, self.value = below, value

    def forward(self, x_t, t, cond=None):
        denoised = self.exact(x_t, t)
        if t < self.below:
            denoised.x0[1, 0] = self.value
        return denoised


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [3, 40, 100])
def test_samples_that_are_not_finite_stop_the_sampler_which_names_the_step(steps, value):
    """The step is the first that begins below t = 0.5; sampling stops at most sixteen steps later."""
    denoiser, steps_done = Breaks(Cosine(1000), 0.5 - 1e-9, value), []
    with pytest.raises(NotFinite) as error:
        DDIM(steps=steps, clip="none")(
            denoiser, torch.randn(3, 2).double(), callback=lambda step, *_: steps_done.append(step)
        )
    times = DDIM(steps=steps).times(denoiser.schedule)
    first = int((times < 0.5 - 1e-9).nonzero()[0])
    sigma = float(denoiser.schedule(times[first])[1])
    assert f"after step {first + 1} of {steps}, from t = {float(times[first]):.4g} (sigma = {sigma:.4g})" in str(
        error.value
    )
    assert first <= len(steps_done) <= first + 16
    assert "\n" not in str(error.value)


def test_the_adaptive_solver_names_the_times_too():
    with pytest.raises(FloatingPointError, match="adaptive solver finds no step"):
        ODE(clip="none")(Breaks(Cosine(1000), 0.9, math.nan), torch.randn(3, 2).double())


def test_large_and_half_precision_numbers_are_finite():
    """Sums of finite terms do not overflow."""
    denoiser = Breaks(Cosine(100), -1, 0.0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.full((64, 2), 6e4 if dtype == torch.float16 else 1e30, dtype=dtype)
        assert DDIM(steps=2, stop=0.9, clip="none")(denoiser, x).isfinite().all()


# Inversion


def gaussian_start(denoiser, t):
    """Return the exact map of Gaussian data to x_t along the ODE: from x to alpha_t mean + root (x - mean)."""
    alpha, sigma = denoiser.schedule(torch.tensor(t, dtype=torch.float64))
    covariance = denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T
    values, vectors = torch.linalg.eigh(covariance)
    growth = ((alpha**2 * values + sigma**2) / values).sqrt()
    return lambda x: alpha * denoiser.means[0] + (x - denoiser.means[0]) @ (vectors * growth) @ vectors.T


@pytest.mark.parametrize(
    ("schedule", "spacing"),
    [(Cosine(1000), "uniform"), (VP(), "uniform"), (Flow(), "uniform"), (VE(), "uniform"), (EDM(), "karras")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_inversion_follows_the_odes_solution(gaussian, schedule, spacing):
    """It is of first order: twice as many steps halve the error, from data to noise and back to the data."""
    denoiser = gaussian(schedule)
    data = denoiser.sample(64, torch.Generator().manual_seed(0))
    exact = gaussian_start(denoiser, 1.0)(data)
    errors, back = [], []
    for steps in (200, 400):
        sampler = DDIM(steps=steps, spacing=spacing, clip="none")
        noise = sampler.invert(denoiser, data)
        errors.append(float((noise - exact).norm() / exact.norm()))
        back.append(float((sampler(denoiser, noise) - data).norm() / data.norm()))
    assert errors[1] < 0.03
    assert back[1] < 0.05
    assert errors[1] < 0.7 * errors[0]
    assert back[1] < 0.7 * back[0]


def test_inversion_goes_through_the_times_upwards(gaussian):
    denoiser, calls = gaussian(Linear(100)), []
    sampler = DDIM(steps=10, start=0.8, stop=0.0)
    with counting(denoiser) as count:
        sampler.invert(denoiser, torch.zeros(3, 2).double(), callback=lambda i, t, *_: calls.append((i, float(t))))
    up = sampler.times(denoiser.schedule).flip(0)[:-1].tolist()
    assert calls == list(enumerate([1 / 100, *up[1:]]))
    assert (count.calls, count.rows) == (10, 30)


def test_a_stochastic_sampler_cannot_be_inverted(gaussian):
    with pytest.raises(ValueError, match=r"use sampler\.eta=0, not 0\.5"):
        DDIM(eta=0.5).invert(gaussian(Linear(100)), torch.zeros(1, 2).double())


class OnGPU:
    """A stand-in of samples on a GPU with a given sum."""

    device, dtype = torch.device("cuda"), torch.float32

    def __init__(self, value):
        self.value = value

    def sum(self, dtype):
        return torch.tensor(self.value, dtype=dtype)


def watched_on_gpu(bad):
    """Return a check of 20 steps that was called after each of them; ``bad`` is the first whose samples are NaN."""
    level = Level(torch.tensor(0.5), 1.0, 1.0)
    watch = Watch([(level, level)] * 20)
    for step in range(20):
        watch(OnGPU(1.0 if step < bad else math.nan))
    return watch


@pytest.mark.parametrize("bad", [3, 15])
def test_on_a_gpu_sums_are_tested_when_the_next_are_copied(bad):
    """Those of steps 1 to 16 after step 20, the last."""
    with pytest.raises(NotFinite, match=f"after step {bad + 1} of 20"):
        watched_on_gpu(bad)


@pytest.mark.parametrize("bad", [16, 19])
def test_the_last_sums_are_tested_at_the_end_or_later(bad):
    with pytest.raises(NotFinite, match=f"after step {bad + 1} of 20"):
        watched_on_gpu(bad).finish()
    with tested_later() as watches:
        watched_on_gpu(bad).finish()
    (watch,) = watches
    with pytest.raises(NotFinite, match=f"after step {bad + 1} of 20"):
        watch.finish()


def test_an_inversion_that_is_not_finite_stops():
    with pytest.raises(NotFinite, match=r"after step 1 of 20, from t = 0 "):
        DDIM(steps=20).invert(Breaks(Cosine(1000), 0.5, math.nan), torch.zeros(3, 2).double())


# Counting, seeds


@pytest.mark.parametrize(
    ("sampler", "calls"), [(DDIM(steps=7), 7), (Heun(steps=7), 13), (Langevin(steps=3, corrections=4), 13)]
)
def test_evaluations_are_counted(gaussian, sampler, calls):
    denoiser = gaussian(Linear(100))
    x = prior(denoiser.schedule, torch.randn(5, 2).double())
    with counting(denoiser) as count:
        sampler(denoiser, x)
    sampler(denoiser, x)  # is not counted
    assert (count.calls, count.rows) == (calls, 5 * calls)


def test_noise_drawn_ahead_is_the_noise_of_each_step():
    """It is drawn in blocks, in and out of order, one by one for large samples, and with one seed for each sample."""
    seeds = torch.tensor([5, 2**40 + 1, 7])
    for noise, size in (
        (Noise(3, torch.arange(3)), 6),
        (Noise(seeds, torch.zeros(3, dtype=torch.int64)), 6),
        (Noise(3, torch.arange(3)), 2**19),
    ):
        x = torch.zeros(3, size)
        ahead = StepNoise(noise.at(40), 8)
        for step in (*range(20), 3, 50, 2**20 + 1, 2**21 + 1, 4):
            assert torch.equal(ahead.at(step).like(x), noise.at(step).like(x))
        assert torch.equal(ahead.like(x), noise.at(40).like(x))
        assert torch.equal(ahead.at(1)[1:].like(x[1:]), noise.at(1).like(x)[1:])
        assert torch.equal(ahead.like(x, Stream.EPS), noise.at(40).like(x, Stream.EPS))


def test_noise_with_one_seed_for_each_sample_is_that_of_each_seed():
    seeds = torch.tensor([5, 2**40 + 1, 7])
    x = torch.zeros(3, 4)
    noise = Noise(seeds, torch.arange(3))
    for i, seed in enumerate(seeds.tolist()):
        alone = Noise(seed, torch.arange(3))
        assert torch.equal(noise.like(x)[i], alone.like(x)[i])
        assert torch.equal(noise[i : i + 1].like(x[:1])[0], alone.like(x)[i])
        assert torch.equal(like_over(noise, x, range(2))[1, i], alone.at(1).like(x)[i])


def test_noise_drawn_ahead_keeps_at_most_one_block(gaussian):
    noise = StepNoise(Noise(0, torch.arange(3)), 64)
    for step in range(64):
        noise.at(step).like(torch.zeros(3, 2))
    assert not noise._blocks
    assert spaced_times(Linear(10), "uniform", 2).tolist() == [1, 0.5, 0]


def test_the_callback_of_inversion_gets_each_state(gaussian):
    denoiser, last = gaussian(Cosine(100)), []
    x = DDIM(steps=5).invert(
        denoiser, torch.zeros(2, 2).double(), callback=lambda i, t, denoised, x: last.append((denoised, x))
    )
    assert torch.equal(last[-1][1], x)
    assert all(isinstance(denoised, Denoised) for denoised, _ in last)
