"""The contract of samplers: what holds for every option of conf/sampler."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hydra.utils import get_class
from slower import some

from diffsweep.configuration.build import build
from diffsweep.configuration.conf import options
from diffsweep.diffusion import (
    Denoised,
    Denoiser,
    Eps,
    GaussianDenoiser,
    NetworkDenoiser,
    Noise,
    Stream,
    prior,
    step_between,
)
from diffsweep.diffusion.spacing import SPACINGS
from diffsweep.errors import UserError
from diffsweep.samplers import Solved
from diffsweep.schedules import Cosine, Linear

OPTIONS = options("sampler")

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def make(compose, option):
    """Return a function that makes the option's sampler with other settings: ``make(steps=10, clip="none")``."""
    settings = dict(compose(f"sampler={option}").sampler)
    target = get_class(settings.pop("_target_"))
    return lambda **changes: target(**{**settings, **changes})


def start(denoiser, count, dimension=2, seed=0):
    noise = Noise(seed, torch.arange(count))
    return prior(denoiser.schedule, noise.normal(dimension, stream=Stream.PRIOR, dtype=torch.float64)), noise


def for_sampler(denoiser, sampler):
    """Return the exact denoiser, or the exact consistency function where the sampler is one of such functions."""
    return Solved(denoiser) if "consistency" in sampler.requires else denoiser


def enough(sampler):
    """Return a number of steps for which sampling errors dominate: fewer for higher orders and for correctors."""
    if "consistency" in sampler.requires:
        return 3
    if sampler.tolerance is not None or (sampler.order or 1) > 1:
        return 50
    return 100 if hasattr(sampler, "corrections") else 250


@pytest.mark.parametrize("schedule", some([Linear(1000), Cosine(1000)], 1, lambda schedule: type(schedule).__name__))
def test_gaussian_data_are_recovered(make, gaussian, schedule):
    """Mean and covariance of 2,500 samples are right within five standard errors, and 1 % for the solver."""
    denoiser, count = gaussian(schedule), 2_500
    x, noise = start(denoiser, count)
    x = make(steps=enough(make()), clip="none")(for_sampler(denoiser, make()), x, noise=noise)
    mean = denoiser.means[0]
    covariance = denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T
    variances = covariance.diagonal()
    mean_error = (variances / count).sqrt()
    covariance_error = ((variances[:, None] * variances + covariance**2) / count).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * mean_error + 0.01).all()
    assert ((x.T.cov() - covariance).abs() < 5 * covariance_error + 0.01 * variances.max()).all()


@pytest.fixture(scope="module")
def known(mixture):
    """Return the mixture's denoiser, and many samples of the mixture."""
    denoiser = mixture(Cosine(1000))
    return denoiser, denoiser.sample(50_000, torch.Generator().manual_seed(0))


def test_a_mixture_is_recovered(make, known):
    """The shares, means and variances of the three components are right."""
    (denoiser, truth), count = known, 2_500
    x, noise = start(denoiser, count, seed=1)
    x = make(steps=enough(make()), clip="none")(for_sampler(denoiser, make()), x, noise=noise)
    for function in (
        lambda z: z,
        lambda z: z**2,
        lambda z: z.prod(1, keepdim=True),
        torch.cos,
        lambda z: (3 * z).sin(),
    ):
        ours, theirs = function(x), function(truth)
        error = (ours.var(0) / count + theirs.var(0) / len(truth)).sqrt()
        assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error + 0.01).all()
    shares, expected = (torch.cdist(z, denoiser.means).argmin(1).bincount() / len(z) for z in (x, truth))
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)


def test_data_that_are_one_point_are_reached_exactly(make):
    """The variance is 0, so x0 is known at every step, and the last step ends at clean data."""
    point = torch.tensor([0.3, -0.8], dtype=torch.float64)
    denoiser = GaussianDenoiser(Linear(100), point, torch.zeros(2, 2, dtype=torch.float64))
    x, noise = start(denoiser, 4)
    for steps in (1, 3, 30):
        x0 = make(steps=steps)(denoiser, x, noise=noise)
        torch.testing.assert_close(x0, point.expand(4, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_times_fall_from_start_to_stop(make, spacing):
    for begin, end in ((1.0, 0.0), (0.8, 0.1), (1.0, 0.05)):
        times = make(steps=20, spacing=spacing, start=begin, stop=end).times(Linear(1000))
        assert times.dtype == torch.float64
        assert times.shape == (21,)
        assert (times.diff() < 0).all()
        assert times[-1] == end
        assert times[0] == begin if spacing != "leading" else times[0] <= begin


def test_sampling_in_two_parts_gives_the_same_samples(make, mixture):
    """From 1 to 1/2, and with the same noise from 1 to 0, by one call and by :meth:`step`."""
    denoiser, sampler = mixture(Cosine(1000)), make(steps=10, clip="none", spacing="uniform")
    x, noise = start(denoiser, 3)
    whole = sampler(denoiser, x, noise=noise)
    times, state, z = sampler.times(denoiser.schedule), None, x
    for i in range(10):
        z, state = sampler.step(denoiser, z, times[i], times[i + 1], state, noise.at(i))
    torch.testing.assert_close(z, whole, rtol=1e-12, atol=1e-12)
    middle = make(steps=5, stop=0.5, clip="none", spacing="uniform")(denoiser, x, noise=noise)
    torch.testing.assert_close(middle, sampler_at(sampler, denoiser, x, noise, 5), rtol=1e-12, atol=1e-12)


def sampler_at(sampler, denoiser, x, noise, steps):
    states = []
    sampler(denoiser, x, noise=noise, callback=lambda step, t, denoised, x: states.append(x))
    return states[steps - 1]


def test_the_callback_gets_every_step(make, gaussian):
    denoiser, sampler, calls = gaussian(Linear(1000)), make(steps=7, clip="none"), []
    x, noise = start(denoiser, 3)
    result = sampler(denoiser, x, noise=noise, callback=lambda *arguments: calls.append(arguments))
    assert [step for step, *_ in calls] == list(range(7))
    torch.testing.assert_close(
        torch.stack([t for _, t, _, _ in calls]), sampler.times(denoiser.schedule)[:-1], rtol=0, atol=0
    )
    before = x
    for _, t, denoised, after in calls:
        expected = denoiser(before, t)
        torch.testing.assert_close(denoised.x0, expected.x0)
        torch.testing.assert_close(denoised.eps, expected.eps)
        before = after
    assert torch.equal(before, result)


@pytest.mark.parametrize("clip", ["static", "dynamic"])
def test_clipped_estimates_stay_in_range_and_still_decompose_x_t(make, gaussian, clip):
    schedule = Linear(1000)
    denoiser = GaussianDenoiser(schedule, torch.full((8,), 1.5).double(), torch.eye(8).double())
    x, noise = start(denoiser, 50, dimension=8)
    before = [x]

    def check(step, t, denoised, after):
        alpha, sigma = schedule(t)
        assert denoised.x0.abs().max() <= 1 + 1e-6
        torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, before[-1])
        before.append(after)

    x0 = make(steps=10, clip=clip)(denoiser, x, noise=noise, callback=check)
    assert len(before) == 11
    assert x0.abs().max() <= 1 + 1e-6


def test_samples_do_not_depend_on_the_batch(make, mixture):
    denoiser, sampler = mixture(Cosine(100)), make(steps=10)
    x, noise = start(denoiser, 6)
    whole = sampler(denoiser, x, noise=noise)
    near = 1e-12 if sampler.tolerance is None else 20 * sampler.tolerance
    rows = [sampler(denoiser, x[i : i + 1], noise=noise[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=near, atol=near)
    reverse = Noise(0, torch.arange(5, -1, -1))
    torch.testing.assert_close(sampler(denoiser, x.flip(0), noise=reverse).flip(0), whole, rtol=near, atol=near)


def test_without_noise_torchs_seed_governs(make, mixture):
    denoiser, sampler = mixture(Cosine(100)), make(steps=5)
    x, _ = start(denoiser, 6)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(sampler(denoiser, x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (sampler.order is not None)  # a deterministic solver draws no noise


def test_two_threads_can_share_one_sampler(make, mixture, gaussian):
    """Schedules, denoisers and batches differ at once: a sampler object holds no state of a trajectory."""
    sampler = make(steps=20)
    cases = [(mixture(Cosine(1000)), 3), (gaussian(Linear(500)), 40)] * 2
    starts = [start(denoiser, count, seed=i) for i, (denoiser, count) in enumerate(cases)]
    alone = [sampler(denoiser, x, noise=noise) for (denoiser, _), (x, noise) in zip(cases, starts, strict=False)]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(sampler, denoiser, x, noise=noise)
            for (denoiser, _), (x, noise) in zip(cases, starts, strict=False)
        ]
    near = 1e-12 if sampler.tolerance is None else 20 * sampler.tolerance
    for job, expected in zip(jobs, alone, strict=False):
        torch.testing.assert_close(job.result(), expected, rtol=near, atol=near)


def test_with_steps_changes_only_the_steps(make):
    sampler = make(steps=30, spacing="trailing", clip="none")
    other = sampler.with_steps(4)
    assert (sampler.steps, other.steps) == (30, 4)
    assert {**vars(other), "steps": 30} == vars(sampler)
    assert torch.equal(other.times(Linear(100)), make(steps=4, spacing="trailing").times(Linear(100)))
    with pytest.raises(ValueError, match=r"sampler\.steps"):
        sampler.with_steps(0)


class Plain:
    """A user's denoiser, a plain object, for data from N(0, 1)."""

    def __init__(self, schedule):
        self.schedule, self.conditions = schedule, []

    def __call__(self, x_t, t, cond):
        self.conditions.append(cond)
        alpha, sigma = self.schedule(t)
        x0 = alpha / (alpha**2 + sigma**2) * x_t
        return Denoised(x0, (x_t - alpha * x0) / sigma)


def test_a_plain_object_with_a_schedule_and_a_call_is_a_denoiser(make):
    """It gives the samples of the same denoiser in closed form, and gets the condition."""
    own, exact = Plain(Linear(10)), GaussianDenoiser(Linear(10), torch.zeros(2).double(), torch.eye(2).double())
    (x, noise), cond, sampler = start(exact, 2), object(), make(steps=3)
    ours = sampler(own, x, cond=cond, noise=noise)
    torch.testing.assert_close(ours, sampler(exact, x, noise=noise), rtol=1e-9, atol=1e-9)
    one, _ = sampler.step(own, x, *sampler.times(own.schedule)[:2], None, noise, cond)
    assert one.shape == x.shape
    assert len(own.conditions) >= 4
    assert all(each is cond for each in own.conditions)


def test_a_denoiser_may_differentiate(make):
    """Classifier guidance does so: samplers run under no_grad, not inference_mode, and keep no graph."""

    class Guided(Denoiser):
        def forward(self, x_t, t, cond=None):
            with torch.enable_grad():
                leaf = x_t.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(leaf.square().sum() / 2, leaf)
            return GaussianDenoiser(self.schedule, torch.zeros(2).double(), torch.eye(2).double())(gradient, t)

    plain = GaussianDenoiser(Linear(10), torch.zeros(2).double(), torch.eye(2).double())
    x, noise = start(plain, 2)
    x = x.requires_grad_()
    guided = make(steps=3)(Guided(Linear(10)), x, noise=noise)
    assert not guided.requires_grad
    assert torch.equal(guided, make(steps=3)(plain, x, noise=noise))


def test_float32_is_float64_with_fewer_digits(make, mixture):
    denoiser, sampler = mixture(Cosine(1000)), make(steps=20, clip="none")
    noise = Noise(0, torch.arange(5))
    x = noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64)
    double = sampler(denoiser, x, noise=noise)
    single = sampler(denoiser, x.float(), noise=noise)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


class Zero(torch.nn.Module):
    def forward(self, x, c_noise, cond):
        return torch.zeros_like(x)


def test_the_variance_changes_the_samples_where_uses_variance_is_true(make):
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    noise, sampler = Noise(0, torch.arange(4)), make(steps=5)
    small, large = (
        sampler(NetworkDenoiser(Zero(), Linear(100), Eps(variance)), x, noise=noise)
        for variance in ("fixed_small", "fixed_large")
    )
    assert torch.equal(small, large) != sampler.uses_variance


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"steps": 0}, "sampler.steps"),
        ({"steps": -3}, "sampler.steps"),
        ({"start": 1.5}, "sampler.start"),
        ({"stop": -0.1}, "sampler.stop"),
        ({"start": 0.3, "stop": 0.3}, "sampler.stop < sampler.start"),
        ({"start": 0.2, "stop": 0.6}, "sampler.stop < sampler.start"),
        ({"spacing": "linear"}, "sampler.spacing"),
        ({"clip": "soft"}, "sampler.clip"),
    ],
)
def test_bad_values_are_refused(make, bad, match):
    with pytest.raises(ValueError, match=match):
        make(**bad)


def test_bad_values_of_a_configuration_are_user_errors(compose, option):
    with pytest.raises(UserError, match=r"sampler\.steps must be at least 1"):
        build(compose(f"sampler={option}", "sampler.steps=0"), "sampler")


def test_its_settings_are_the_defaults_of_its_class(compose, option):
    """From Python it gives the samples of the command line, whose clip follows from the space."""
    settings = dict(compose(f"sampler={option}").sampler)
    parameters = inspect.signature(get_class(settings.pop("_target_"))).parameters.values()
    assert {"steps", "spacing", "start", "stop", "clip", "temperature"} <= set(settings)
    assert settings == {parameter.name: parameter.default for parameter in parameters}


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_more_steps_than_the_grid_has_are_refused(make, spacing):
    with pytest.raises(ValueError, match="cannot place 20 steps"):
        make(steps=20, spacing=spacing).times(Linear(10))


def test_a_step_of_each_sample_is_a_step_of_that_sample_alone(make, gaussian):
    sampler, denoiser = make(clip="none"), gaussian(Cosine(1000))
    t, s = torch.tensor([[0.9, 0.6, 0.9, 0.3], [0.8, 0.2, 0.8, 0.0]], dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = step_between(denoiser.schedule, s, t, s == 0)
    if sampler.order is None:
        with pytest.raises(ValueError, match="use a deterministic sampler"):
            sampler.step_each(denoiser, x, step)
        return
    alone = [
        sampler.step(denoiser, x[i, None], t[i], s[i], None, Noise(0, torch.tensor([i])), to_clean=bool(s[i] == 0))[0]
        for i in range(4)
    ]
    torch.testing.assert_close(sampler.step_each(denoiser, x, step), torch.cat(alone), rtol=1e-9, atol=1e-9)
