"""Euler, Heun, linear multistep, the adaptive ODE and the samplers of the SDE: orders, diffusers' samples, moments."""

import itertools
import math

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from options import names, option
from slower import crossed

from diffsweep.diffusion import Denoiser, GaussianDenoiser, NetworkDenoiser, Noise, Stream, V, prior
from diffsweep.samplers import (
    DDIM,
    LMS,
    ODE,
    PLMS,
    Ancestral,
    Euler,
    EulerAncestral,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
)
from diffsweep.samplers.base import State
from diffsweep.schedules import EDM, VE, VP, Cosine, Flow, Linear, Schedule

OURS = [
    "euler",
    "heun",
    "euler_ancestral",
    "lms",
    "plms",
    "euler_maruyama",
    "ode",
    "langevin",
    "predictor_corrector",
]


SCHEDULES = {name: option("schedule", name) for name in names("schedule")}
SCHEDULES["zero terminal"] = Cosine(1000, zero_terminal_snr=True)
SCHEDULES["a single step"] = Linear(1)


def draw(schedule, count, dimension=2, seed=0):
    noise = Noise(seed, torch.arange(count))
    with torch.no_grad():
        return prior(schedule, noise.normal(dimension, stream=Stream.PRIOR, dtype=torch.float64)), noise


def error(x, y):
    return (x - y).norm(dim=1).mean().item()


# (a) Orders of convergence


def slope(steps, errors):
    """Return the slope of the line through the points in the logarithms."""
    xs, ys = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
    return -((xs - xs.mean()) * (ys - ys.mean())).sum().item() / (xs - xs.mean()).square().sum().item()


EXACT = {}


def errors_of(sampler, denoiser, steps, reference, name=None):
    """Return the errors for several numbers of steps; a reference with a ``name`` is computed once."""
    x, noise = draw(denoiser.schedule, 64)
    exact = EXACT.get(name)
    if exact is None:
        exact = reference(denoiser, x, noise=noise)
    if name is not None:
        EXACT[name] = exact
    return [error(sampler.with_steps(n)(denoiser, x, noise=noise), exact) for n in steps]


def finite_range(schedule):
    """Return the settings of equal steps in log-SNR between log(alpha / sigma) = -5 and 4."""
    ends = schedule.time_of(torch.tensor([-10.0, 8.0], dtype=torch.float64)).tolist()
    return {"start": ends[0], "stop": ends[1], "spacing": "log_snr", "clip": "none"}


GRIDS = [(20, 40, 80), (32, 64, 128)]
FINE = [(100, 200, 400)]  # numbers of steps for which a high order's leading term dominates
SMOOTH = {"vp": VP(0.1, 30.0), "flow": Flow(), "ve": VE(0.001, 200.0)}


CASES = [
    (Euler, {}, 1, GRIDS),
    (EulerAncestral, {"eta": 0.0}, 1, GRIDS),
    (Heun, {}, 2, GRIDS),
    (LMS, {"order": 1}, 1, GRIDS),
    (LMS, {"order": 2}, 2, GRIDS),
    (LMS, {"order": 2, "warm_start": "euler"}, 2, GRIDS),
    (LMS, {"order": 3}, 3, FINE),
    (LMS, {"order": 4}, 4, FINE),
    (PLMS, {}, 2, GRIDS),
    (PLMS, {"public_form": True}, 2, GRIDS),
]


@pytest.mark.parametrize(("name", "case"), crossed(list(SMOOTH), CASES))
def test_order_in_log_snr_on_a_finite_range(mixture, name, case):
    kind, settings, order, grids = case
    ends = finite_range(SMOOTH[name])
    sampler = kind(**settings, **ends)
    assert sampler.order == order
    reference = ODE(tolerance=1e-12, **{**ends, "spacing": "uniform"})
    for grid in grids:
        errors = errors_of(sampler, mixture(SMOOTH[name]), grid, reference, name)
        assert slope(grid, errors) >= order - 0.2, (grid, errors)


@pytest.mark.parametrize("order", [3, 4])
def test_the_first_steps_keep_the_order_where_sampling_starts_late(mixture, order):
    """Sampling starts at log(alpha / sigma) = -1/2; with Euler's step first the order is 2."""
    ends = finite_range(SMOOTH["vp"])
    ends["start"] = SMOOTH["vp"].time_of(torch.tensor(-1.0, dtype=torch.float64)).item()
    reference = ODE(tolerance=1e-12, **{**ends, "spacing": "uniform"})
    denoiser, grid = mixture(SMOOTH["vp"]), FINE[0]
    assert slope(grid, errors_of(LMS(order=order, **ends), denoiser, grid, reference, "late")) >= order - 0.2
    assert slope(grid, errors_of(LMS(order=order, warm_start="euler", **ends), denoiser, grid, reference, "late")) < 2.5


class Truth:
    """The solution of the probability-flow ODE of Gaussian data, in closed form."""

    def __call__(self, denoiser, x, noise=None):
        with torch.no_grad():
            alpha, sigma = denoiser.schedule(torch.ones((), dtype=torch.float64))
        mean, variances, rotation = denoiser.means[0], denoiser.variances[0], denoiser.rotations[0]
        scale = (variances / (alpha**2 * variances + sigma**2)).sqrt()
        return mean + ((x - alpha * mean) @ rotation * scale) @ rotation.T


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("flow", "uniform"),
        ("cosine_continuous", "uniform"),
        ("edm", "karras"),
        ("vp", "quadratic"),
        ("linear", "quadratic"),
        ("cosine", "quadratic"),
        ("zero terminal", "quadratic"),
    ],
)
@pytest.mark.parametrize(("kind", "order"), [(Euler, 1), (Heun, 2)])
def test_order_from_noise_to_clean_data(gaussian, kind, order, name, spacing):
    sampler = kind(spacing=spacing, clip="none")
    for grid in GRIDS:
        errors = errors_of(sampler, gaussian(SCHEDULES[name]), grid, Truth())
        assert slope(grid, errors) >= order - 0.2, (grid, errors)


@pytest.mark.parametrize("name", ["flow", "vp", "sub_vp", "edm", "cosine_continuous", "learned"])
def test_the_adaptive_solver_ends_at_the_solution_within_its_tolerance(gaussian, name):
    denoiser = gaussian(SCHEDULES[name])
    x, noise = draw(denoiser.schedule, 64)
    with torch.no_grad():
        truth = Truth()(denoiser, x)
    for tolerance in (1e-3, 1e-5):
        assert error(ODE(tolerance=tolerance, clip="none")(denoiser, x, noise=noise), truth) < 20 * tolerance


@pytest.mark.parametrize("name", ["flow", "vp", "linear", "zero terminal", "ve"])
def test_the_adaptive_solver_agrees_with_heun_with_many_steps(mixture, name):
    schedule = SCHEDULES[name]
    denoiser = mixture(schedule)
    x, noise = draw(schedule, 16)
    ends = {"stop": 0.02, "clip": "none"}
    heun = Heun(steps=1000, **ends)(denoiser, x, noise=noise)
    for steps in (1, 7):
        ours = ODE(tolerance=1e-7, steps=steps, **ends)(denoiser, x, noise=noise)
        torch.testing.assert_close(ours, heun, rtol=0, atol=1e-4)


# (b) diffusers' samples


def theirs_of(kind, schedule, steps, spacing, **settings):
    """Return diffusers' scheduler with the schedule's alpha_bar and its tables in float64."""
    num_steps = schedule.num_steps
    alpha_bar = schedule(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps)[0] ** 2
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    theirs = kind(num_train_timesteps=num_steps, trained_betas=betas.numpy(), timestep_spacing=spacing, **settings)
    theirs.alphas_cumprod = alpha_bar[1:]
    theirs.set_timesteps(steps)
    if hasattr(theirs, "sigmas"):
        alpha, sigma = schedule(DDIM(steps=steps, spacing=spacing).times(schedule))
        sigmas = sigma / alpha
        if kind is HeunDiscreteScheduler:
            sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        torch.testing.assert_close(theirs.sigmas.double(), sigmas, rtol=1e-4, atol=1e-6)
        theirs.sigmas = sigmas
    return theirs


def their_samples(theirs, denoiser, x):
    """Return diffusers' samples, computed in x / alpha with the exact eps as the network's output."""
    for timestep in theirs.timesteps:
        t = (timestep.double() + 1) / denoiser.schedule.num_steps
        output = denoiser(theirs.scale_model_input(x, timestep), t).eps
        x = theirs.step(output, timestep, x).prev_sample
    return x


RUNS = [
    ("linear", 50, "trailing"),
    ("linear", 20, "leading"),
    ("cosine", 25, "leading"),
    ("scaled_linear", 10, "trailing"),
]


def begin(schedule, steps, spacing):
    """Return the first x, the noise, and alpha at the first time; diffusers' x is x / alpha."""
    noise = Noise(0, torch.arange(16))
    alpha, _ = schedule(DDIM(steps=steps, spacing=spacing).times(schedule)[0])
    return noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64), noise, alpha


@pytest.mark.parametrize(("name", "steps", "spacing"), RUNS)
def test_euler_is_diffusers(mixture, name, steps, spacing):
    """diffusers takes its steps in float32."""
    schedule = SCHEDULES[name]
    denoiser = mixture(schedule)
    x, noise, alpha = begin(schedule, steps, spacing)
    ours = Euler(steps=steps, spacing=spacing, clip="none")(denoiser, x, noise=noise)
    theirs = their_samples(theirs_of(EulerDiscreteScheduler, schedule, steps, spacing), denoiser, x / alpha)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "steps", "spacing"), RUNS)
def test_euler_ancestral_is_diffusers(monkeypatch, mixture, name, steps, spacing):
    schedule = SCHEDULES[name]
    denoiser = mixture(schedule)
    x, noise, alpha = begin(schedule, steps, spacing)
    ours = EulerAncestral(steps=steps, spacing=spacing, clip="none")(denoiser, x, noise=noise)
    draws = iter([noise.at(i).like(x) for i in range(steps)])
    monkeypatch.setattr(scheduling_euler_ancestral_discrete, "randn_tensor", lambda *_, **__: next(draws))
    theirs = their_samples(theirs_of(EulerAncestralDiscreteScheduler, schedule, steps, spacing), denoiser, x / alpha)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("name", "steps", "spacing"), RUNS)
def test_lms_is_diffusers(mixture, name, steps, spacing, order):
    """It starts as diffusers does, which integrates the weights numerically, to 1e-4."""
    schedule = SCHEDULES[name]
    denoiser = mixture(schedule)
    x, noise, alpha = begin(schedule, steps, spacing)
    ours = LMS(order=order, warm_start="euler", steps=steps, spacing=spacing, clip="none")(denoiser, x, noise=noise)
    theirs = theirs_of(LMSDiscreteScheduler, schedule, steps, spacing)
    step = theirs.step
    theirs.step = lambda output, timestep, x: step(output, timestep, x, order=order)
    torch.testing.assert_close(ours, their_samples(theirs, denoiser, x / alpha), rtol=0, atol=1e-5)


class Exploding(Schedule):
    """The schedule of x / alpha for a discrete schedule: alpha is 1 and sigma is sigma / alpha, as in k-diffusion."""

    def __init__(self, schedule):
        super().__init__()
        self.inner, self.num_steps, self.t_min = schedule, schedule.num_steps, schedule.t_min

    def forward(self, t):
        alpha, sigma = self.inner(t)
        return torch.ones_like(alpha), sigma / alpha

    def log_snr(self, t):
        return self.inner.log_snr(t)

    def time_of(self, log_snr):
        return self.inner.time_of(log_snr)


@pytest.mark.parametrize(("name", "steps", "spacing"), RUNS)
def test_heun_is_diffusers_where_alpha_is_1(mixture, name, steps, spacing):
    schedule = SCHEDULES[name]
    x, noise, alpha = begin(schedule, steps, spacing)
    ours = Heun(steps=steps, spacing=spacing, clip="none")(mixture(Exploding(schedule)), x / alpha, noise=noise)
    theirs = their_samples(theirs_of(HeunDiscreteScheduler, schedule, steps, spacing), mixture(schedule), x / alpha)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "steps", "spacing"), RUNS)
def test_plms_is_diffusers(mixture, name, steps, spacing):
    """The comparison is with ``public_form``."""
    schedule = SCHEDULES[name]
    denoiser = mixture(schedule)
    x, noise, _ = begin(schedule, steps, spacing)
    ours = PLMS(public_form=True, steps=steps, spacing=spacing, clip="none")(denoiser, x, noise=noise)
    theirs = their_samples(
        theirs_of(PNDMScheduler, schedule, steps, spacing, skip_prk_steps=True, set_alpha_to_one=True), denoiser, x
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_heun_is_edms_algorithm_2(mixture):
    """The expected samples follow EDM's code, with churn."""
    steps, s_churn, s_min, s_max, s_noise = 18, 40.0, 0.05, 50.0, 1.003
    denoiser = mixture(EDM())
    x, noise = draw(denoiser.schedule, 8)
    sampler = Heun(
        s_churn=s_churn, s_min=s_min, s_max=s_max, steps=steps, spacing="karras", clip="none", temperature=s_noise
    )
    ours = sampler(denoiser, x, noise=noise)
    assert sampler.order is None
    ends = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** 7 for i in range(steps)] + [0.0]
    for i, (sigma, below) in enumerate(itertools.pairwise(sigmas)):
        gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_min <= sigma <= s_max else 0.0
        raised = sigma * (1 + gamma)
        hat = x + math.sqrt(raised**2 - sigma**2) * s_noise * noise.at(i).like(x)
        slope_t = (hat - denoiser(hat, torch.tensor(raised / 80, dtype=torch.float64)).x0) / raised
        x = hat + (below - raised) * slope_t
        if below > 0:
            slope_s = (x - denoiser(x, torch.tensor(below / 80, dtype=torch.float64)).x0) / below
            x = hat + (below - raised) * (slope_t + slope_s) / 2
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-8)


# (c) Every schedule


class Garbage(torch.nn.Module):
    """An untrained network whose output is bounded and not 0."""

    def forward(self, x, c_noise, cond):
        return x.sin() + 0.5


@pytest.mark.parametrize(("name", "sampler"), crossed(list(SCHEDULES), list(OURS)))
def test_no_schedule_gives_nan_of_a_network(name, sampler):
    schedule = SCHEDULES[name]
    x, noise = draw(schedule, 3)
    grid = ("trailing", "leading") if schedule.num_steps == 1000 else ()
    loose = {"tolerance": 1e-2} if sampler == "ode" else {}
    counts = (1, 2) if loose else (1, 2, 5)  # an adaptive solver has no history
    for spacing in ("uniform", "log_snr") if loose else ("uniform", "quadratic", "log_snr", "karras", *grid):
        for steps in counts:
            for clip in ("none", "static") if steps == counts[-1] else ("static",):
                sample = option("sampler", sampler, spacing=spacing, steps=steps, clip=clip, **loose)
                if schedule.num_steps != 1 or spacing in ("uniform", "quadratic"):
                    x0 = sample(NetworkDenoiser(Garbage(), schedule, V()), x, noise=noise)
                    assert torch.isfinite(x0).all(), (spacing, steps, clip)


@pytest.mark.parametrize(("name", "sampler"), crossed(list(SCHEDULES), list(OURS)))
def test_data_that_are_one_point_are_reached_exactly(name, sampler):
    point = torch.tensor([0.3, -0.8], dtype=torch.float64)
    denoiser = GaussianDenoiser(SCHEDULES[name], point, torch.zeros(2, 2, dtype=torch.float64))
    x, noise = draw(denoiser.schedule, 4)
    for steps in (2,) if sampler == "ode" else (1, 2, 9):  # an adaptive solver has no history
        x0 = option("sampler", sampler, steps=steps)(denoiser, x, noise=noise)
        torch.testing.assert_close(x0, point.expand(4, 2), rtol=0, atol=1e-9)


# (d) Moments, identities, settings


@pytest.mark.parametrize(
    ("name", "sampler"),
    crossed(
        ["flow", "vp", "ve", "zero terminal", "cosine_continuous"],
        [
            EulerAncestral(steps=300, clip="none"),
            EulerMaruyama(steps=600, clip="none"),
            PredictorCorrector(steps=300, clip="none", snr=0.1),
            PredictorCorrector(predictor="ancestral", steps=300, clip="none", snr=0.1),
            Heun(s_churn=30.0, steps=150, clip="none"),
            Langevin(steps=150, clip="none"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__ + getattr(value, "predictor", ""),
    ),
)
def test_mean_and_covariance_of_gaussian_data(gaussian, name, sampler):
    """They agree within five standard errors and 3 % of a variance, for the size of the steps."""
    denoiser, count = gaussian(SCHEDULES[name]), 2_500
    x, noise = draw(denoiser.schedule, count)
    x = sampler(denoiser, x, noise=noise)
    covariance = denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T
    variances = covariance.diagonal()
    assert ((x.mean(0) - denoiser.means[0]).abs() < 5 * (variances / count).sqrt() + 0.015).all()
    spread = ((variances[:, None] * variances + covariance**2) / count).sqrt()
    assert ((x.T.cov() - covariance).abs() < 5 * spread + 0.03 * variances.max()).all()


@pytest.mark.parametrize("name", ["flow", "linear", "ve", "zero terminal"])
def test_samplers_with_several_names_give_equal_samples(mixture, name):
    """Euler is DDIM, and LMS of order 1.

    EulerAncestral is Euler with eta 0, DDIM with the same eta, and Ancestral with eta 1.
    """
    denoiser = mixture(SCHEDULES[name])
    x, noise = draw(denoiser.schedule, 8)

    def sample(sampler):
        return sampler(denoiser, x, noise=noise)

    euler = sample(Euler(steps=12))
    for other in (DDIM(steps=12), EulerAncestral(eta=0.0, steps=12), LMS(order=1, steps=12)):
        torch.testing.assert_close(sample(other), euler, rtol=0, atol=1e-12)
    for eta in (0.4, 1.0):
        torch.testing.assert_close(
            sample(EulerAncestral(eta=eta, steps=12)), sample(DDIM(eta=eta, steps=12)), rtol=0, atol=1e-12
        )
    torch.testing.assert_close(sample(EulerAncestral(steps=12)), sample(Ancestral(steps=12)), rtol=0, atol=1e-12)
    assert (sample(EulerAncestral(steps=12)) - euler).abs().max() > 0.1
    assert (sample(EulerAncestral(steps=12, temperature=0.5)) - sample(EulerAncestral(steps=12))).abs().max() > 0.01


def test_churn_of_0_is_deterministic_and_more_is_not(mixture):
    denoiser = mixture(SCHEDULES["flow"])
    x, noise = draw(denoiser.schedule, 8)
    other = Noise(1, torch.arange(8))
    for churn in (0.0, 5.0):
        first, second = (Heun(s_churn=churn, steps=10)(denoiser, x, noise=each) for each in (noise, other))
        assert torch.equal(first, second) == (churn == 0)
    beyond = Heun(s_churn=5.0, s_min=1e3, steps=10)(denoiser, x, noise=noise)
    assert torch.equal(beyond, Heun(steps=10)(denoiser, x, noise=noise))


@pytest.mark.parametrize("sampler", [Langevin(corrections=3), PredictorCorrector(corrections=2)])
def test_draws_of_one_step_differ_from_each_other_and_from_those_of_other_steps(sampler):
    noise, x = Noise(0, torch.arange(1000)), torch.zeros(1000, 2, dtype=torch.float64)
    draws = [sampler.drawn(noise.at(step), k).like(x).flatten() for step in (0, 1, 7) for k in range(3)]
    assert torch.equal(draws[0], noise.like(x).flatten())
    assert (torch.corrcoef(torch.stack(draws)) - torch.eye(9)).abs().max() < 0.1


class Counting(Denoiser):
    def __init__(self, inner):
        super().__init__(inner.schedule)
        self.inner, self.calls = inner, 0

    def forward(self, x_t, t, cond=None):
        self.calls += 1
        return self.inner(x_t, t, cond)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (Euler(steps=10), 10),
        (Heun(steps=10), 19),
        (EulerAncestral(steps=10), 10),
        (LMS(order=4, steps=10), 10 + 3 * 3),
        (LMS(order=4, warm_start="euler", steps=10), 10),
        (PLMS(steps=10), 11),
        (EulerMaruyama(steps=10), 10),
        (PredictorCorrector(steps=10), 20),
        (Langevin(corrections=3, steps=10), 31),
    ],
    ids=lambda value: type(value).__name__,
)
def test_network_calls(mixture, sampler, calls):
    denoiser = Counting(mixture(SCHEDULES["linear"]))
    x, noise = draw(denoiser.schedule, 2)
    sampler(denoiser, x, noise=noise)
    assert denoiser.calls == calls


@pytest.mark.parametrize("kind", [LMS, PLMS])
def test_history_belongs_to_the_trajectory_and_is_dropped_where_it_goes_back(mixture, kind):
    denoiser, sampler = mixture(SCHEDULES["vp"]), kind(clip="none")
    before = dict(vars(sampler))
    x, noise = draw(denoiser.schedule, 4)
    times, state = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64), None
    for t, s in itertools.pairwise(times):
        x, state = sampler.step(denoiser, x, t, s, state, noise)
    assert isinstance(state.history, tuple)
    coordinates = [round(slope.coordinate, 6) for slope in state.history]
    assert coordinates == sorted(coordinates)
    assert len(state.history) == 3
    back, _ = sampler.step(denoiser, x, times[1], times[2], state, noise)  # x is taken to be at an earlier time
    fresh, _ = sampler.step(denoiser, x, times[1], times[2], State(state.denoised, state.history[2:]), noise)
    assert torch.isfinite(back).all()
    assert torch.isfinite(fresh).all()
    assert vars(sampler) == before


@pytest.mark.parametrize(
    ("kind", "bad", "match"),
    [
        (Heun, {"s_churn": -1.0}, r"sampler\.s_churn"),
        (Heun, {"s_churn": math.nan}, r"sampler\.s_churn"),
        (Heun, {"s_min": 2.0, "s_max": 1.0}, r"sampler\.s_min <= sampler\.s_max"),
        (Heun, {"s_churn": 1.0, "temperature": -1.0}, r"sampler\.temperature"),
        (EulerAncestral, {"eta": 1.1}, r"sampler\.eta"),
        (EulerAncestral, {"temperature": -0.1}, r"sampler\.temperature"),
        (LMS, {"order": 5}, r"sampler\.order is one of 1, 2, 3, 4"),
        (LMS, {"warm_start": "heun"}, r"sampler\.warm_start"),
        (ODE, {"tolerance": 0.0}, r"sampler\.tolerance"),
        (Langevin, {"snr": 0.0}, r"sampler\.snr"),
        (Langevin, {"corrections": 0}, r"sampler\.corrections"),
        (PredictorCorrector, {"predictor": "euler"}, r"sampler\.predictor is one of reverse_diffusion, ancestral"),
        (PredictorCorrector, {"corrections": 5000}, r"sampler\.corrections"),
    ],
)
def test_bad_values_are_refused(kind, bad, match):
    with pytest.raises(ValueError, match=match):
        kind(**bad)
