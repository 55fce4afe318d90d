"""The exponential integrators: DPM-Solver, DPM-Solver++, UniPC and DEIS."""

import inspect
import math

import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    UniPCMultistepScheduler,
)
from options import names, option
from slower import crossed

from diffsweep.diffusion import Denoiser, Impulses, Noise, Stream, prior
from diffsweep.diffusion.spacing import SPACINGS
from diffsweep.samplers import DDIM, DEIS, DPMSolver, DPMSolverPP, UniPC
from diffsweep.samplers.exponential import exact_moments, phi, quadrature
from diffsweep.schedules import VP, Cosine, Flow, Linear, SubVP


def with_settings(kind, **settings):
    return lambda **others: kind(**settings, **others)


SOLVERS = {
    "2M": with_settings(DPMSolverPP, order=2),
    "3M": with_settings(DPMSolverPP, order=3),
    "2S": with_settings(DPMSolverPP, variant="singlestep", order=2),
    "3S": with_settings(DPMSolverPP, variant="singlestep", order=3),
    **{f"DPM-Solver-{order}": with_settings(DPMSolver, order=order) for order in (1, 2, 3)},
    **{
        f"UniPC-{order} {variant}": with_settings(UniPC, order=order, variant=variant)
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
    },
    **{f"DEIS-{order}": with_settings(DEIS, order=order) for order in (1, 2, 3)},
}
STARTED_BY_EULER = {
    **{f"{order}M by Euler": with_settings(DPMSolverPP, order=order, warm_start="euler") for order in (2, 3)},
    **{f"UniPC-{order} by Euler": with_settings(UniPC, order=order, warm_start="euler") for order in (2, 3)},
    **{f"DEIS-{order} by Euler": with_settings(DEIS, order=order, warm_start="euler") for order in (2, 3)},
}
OTHERS = {
    "3M as published": with_settings(DPMSolverPP, order=3, public_form=True),
    "3M by Euler as published": with_settings(DPMSolverPP, order=3, public_form=True, warm_start="euler"),
    "SDE-2M": with_settings(DPMSolverPP, variant="sde"),
}
ALL = {**SOLVERS, **STARTED_BY_EULER, **OTHERS}
ORDERS = {
    **{"2M": 2, "3M": 3, "2S": 2, "3S": 3, "3M as published": 2, "SDE-2M": None},
    **{f"DPM-Solver-{order}": order for order in (1, 2, 3)},
    **{f"UniPC-{order} {variant}": order + 1 for order in (1, 2, 3) for variant in ("bh1", "bh2")},
    **{f"DEIS-{order}": order for order in (1, 2, 3)},
}


def draw(schedule, count, dimension=2, seed=0):
    noise = Noise(seed, torch.arange(count))
    with torch.no_grad():
        return prior(schedule, noise.normal(dimension, stream=Stream.PRIOR, dtype=torch.float64)), noise


def between(schedule, begin, end):
    """Return the settings of unclipped steps even in log-SNR, from log(alpha / sigma) = ``begin`` to ``end``."""
    start, stop = (schedule.time_of(torch.tensor(2 * level, dtype=torch.float64)).item() for level in (begin, end))
    return {"spacing": "log_snr", "start": start, "stop": stop, "clip": "none"}


# Weights


@pytest.mark.parametrize("z", [-30.0, -3.0, -1.0, -0.999, -0.1, -1e-9, 1e-9, 0.3, 0.999, 1.0, 4.0])
def test_phi_and_the_moments_are_integrals(z):
    """The integrals are computed by Gauss-Legendre quadrature with 60 nodes."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(60)
    theta = (nodes + 1) / 2
    for k in (1, 2, 3, 4):
        expected = (weights / 2 * np.exp(z * (1 - theta)) * theta ** (k - 1)).sum()
        assert phi(k, z) * math.factorial(k - 1) == pytest.approx(expected, rel=1e-12)
        assert exact_moments(4, z)[k - 1] == pytest.approx(expected, rel=1e-12)


def test_the_quadrature_has_the_moments():
    nodes, moments = [0.0, -0.7, -1.9, 1.0], [0.9, 0.4, -0.2, 0.3]
    weights = quadrature(nodes, moments)
    for i, moment in enumerate(moments):
        assert sum(w * node**i for w, node in zip(weights, nodes, strict=True)) == pytest.approx(moment, abs=1e-13)
    assert quadrature([0.0], [0.3]) == [0.3]


# Order of convergence

COUNTS = [20, 40, 80, 160]
MANY = [*COUNTS, 320]


def slope(counts, errors):
    x, y = torch.tensor(counts).double().log(), -torch.tensor(errors).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


REFERENCES = {}


def measured(make, denoiser, begin=-5.0, end=4.0, counts=COUNTS):
    """Return the slope of the mean error of 64 samples, against 3S with 1,200 steps, and the errors."""
    schedule = denoiser.schedule
    settings, (x, _) = between(schedule, begin, end), draw(schedule, 64)
    key = type(schedule), begin, end  # all tests use the same mixture
    if key not in REFERENCES:
        REFERENCES[key] = SOLVERS["3S"](steps=1_200, **settings)(denoiser, x)
    exact = REFERENCES[key]
    errors = [float((make(steps=steps, **settings)(denoiser, x) - exact).norm(dim=1).mean()) for steps in counts]
    return slope(counts, errors), errors


@pytest.mark.parametrize("name", SOLVERS)
def test_orders_of_convergence(mixture, name):
    order, errors = measured(SOLVERS[name], mixture(Cosine(1000)), counts=COUNTS if ORDERS[name] > 1 else MANY)
    assert SOLVERS[name]().order == ORDERS[name]
    assert order >= ORDERS[name] - 0.2
    assert errors[-1] < 5e-3


@pytest.mark.parametrize(
    ("name", "schedule"), crossed(["2M", "3M", "2S", "3S", "DPM-Solver-3", "UniPC-2 bh2", "DEIS-3"], [SubVP(), Flow()])
)
def test_orders_where_alpha_and_sigma_are_not_on_a_circle(mixture, schedule, name):
    order, _ = measured(SOLVERS[name], mixture(schedule))
    assert order >= ORDERS[name] - 0.2


def test_the_published_third_order_update_is_of_order_2(mixture):
    """It lacks the factor 2 before D_2, and .order is 2."""
    order, errors = measured(OTHERS["3M as published"], mixture(Cosine(1000)), counts=MANY)
    assert 1.8 <= order <= 2.3
    assert OTHERS["3M as published"]().order == 2
    _, correct = measured(SOLVERS["3M"], mixture(Cosine(1000)), counts=MANY)
    assert correct[-1] < errors[-1] / 10


@pytest.mark.parametrize(
    ("warm", "euler", "order"),
    [("3M", "3M by Euler", 3), ("DEIS-3", "DEIS-3 by Euler", 3), ("UniPC-3 bh2", "UniPC-3 by Euler", 4)],
)
def test_single_steps_at_the_start_keep_the_order_where_sampling_starts_late(mixture, warm, euler, order):
    """Sampling starts at alpha = sigma, where the solution is curved; the public codes' start costs a whole order."""
    denoiser, counts = mixture(Cosine(1000)), [40, 80, 160, 320]
    kept, _ = measured(SOLVERS[warm], denoiser, begin=0.0, counts=counts)
    lost, _ = measured(STARTED_BY_EULER[euler], denoiser, begin=0.0, counts=counts)
    assert kept >= order - 0.2
    assert lost < order - 0.8


class Counting(Denoiser):
    def __init__(self, denoiser):
        super().__init__(denoiser.schedule)
        self.denoiser, self.calls = denoiser, 0

    def forward(self, x_t, t, cond=None):
        self.calls += 1
        return self.denoiser(x_t, t, cond)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("2M", 10 + 1),
        ("3M", 10 + 4),
        ("2S", 19),  # the last step, to clean data, takes one call
        ("3S", 28),
        ("DPM-Solver-1", 10),
        ("DPM-Solver-2", 19),
        ("DPM-Solver-3", 28),
        ("UniPC-1 bh2", 10),
        ("UniPC-2 bh2", 10 + 1),
        ("UniPC-3 bh1", 10 + 4),
        ("DEIS-1", 10),
        ("DEIS-2", 10 + 1),
        ("DEIS-3", 10 + 4),
        ("3M by Euler", 10),
        ("UniPC-3 by Euler", 10),
        ("DEIS-3 by Euler", 10),
        ("3M as published", 10 + 4),
        ("SDE-2M", 10),
    ],
)
def test_network_calls(gaussian, name, calls):
    denoiser = Counting(gaussian(Cosine(1000)))
    x, noise = draw(denoiser.schedule, 2)
    ALL[name](steps=10)(denoiser, x, noise=noise)
    assert denoiser.calls == calls


# Against published formulas and codes


@pytest.mark.parametrize("name", ["DPM-Solver-1", "DEIS-1"])
def test_order_1_is_ddim(mixture, name):
    denoiser = mixture(Linear(1000))
    x, _ = draw(denoiser.schedule, 8)
    settings = {"steps": 12, "spacing": "uniform", "clip": "none"}
    torch.testing.assert_close(
        SOLVERS[name](**settings)(denoiser, x), DDIM(**settings)(denoiser, x), rtol=0, atol=1e-11
    )


PAIR = (0.6, 0.4)


def levels(schedule, t):
    alpha, sigma = (value.item() for value in schedule(t))
    return alpha, sigma, math.log(alpha / sigma)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Flow()], ids=["vp", "sub_vp", "flow"])
def test_dpm_solver_3_is_algorithm_2_of_the_paper(mixture, schedule):
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 8)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in PAIR)
    alpha_t, _, begin = levels(schedule, t)
    alpha_s, sigma_s, end = levels(schedule, s)
    h, r1, r2 = end - begin, 1 / 3, 2 / 3
    s1, s2 = (schedule.time_of(torch.tensor(2 * (begin + r * h), dtype=torch.float64)) for r in (r1, r2))
    (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = levels(schedule, s1), levels(schedule, s2)
    eps = denoiser(x, t).eps
    u1 = alpha_1 / alpha_t * x - sigma_1 * math.expm1(r1 * h) * eps
    d1 = denoiser(u1, s1).eps - eps
    u2 = alpha_2 / alpha_t * x - sigma_2 * math.expm1(r2 * h) * eps
    u2 = u2 - sigma_2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = denoiser(u2, s2).eps - eps
    expected = alpha_s / alpha_t * x - sigma_s * math.expm1(h) * eps - sigma_s / r2 * (math.expm1(h) / h - 1) * d2
    ours, _ = DPMSolver(order=3, clip="none").step(denoiser, x, t, s, None, noise)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), Flow()], ids=["vp", "sub_vp", "flow"])
def test_2s_is_algorithm_1_of_the_paper(mixture, schedule):
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 8)
    t, s = (torch.tensor(value, dtype=torch.float64) for value in PAIR)
    (_, sigma_t, begin), (alpha_s, sigma_s, end) = levels(schedule, t), levels(schedule, s)
    h = end - begin
    middle = schedule.time_of(torch.tensor(begin + end, dtype=torch.float64))
    alpha_m, sigma_m, _ = levels(schedule, middle)
    u = sigma_m / sigma_t * x - alpha_m * math.expm1(-h / 2) * denoiser(x, t).x0
    expected = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * denoiser(u, middle).x0
    ours, _ = SOLVERS["2S"](clip="none").step(denoiser, x, t, s, None, noise)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


def theirs_of(kind, schedule, times, **settings):
    """Return diffusers' scheduler at the given times, with float64 noise levels; its timesteps are indices of times."""
    clean = bool(times[-1] == 0)
    if "final_sigmas_type" in inspect.signature(kind).parameters:
        settings |= {"final_sigmas_type": "zero" if clean else "sigma_min"}
    scheduler = kind(lower_order_final=clean, **settings)
    scheduler.set_timesteps(len(times) - 1)
    alpha, sigma = schedule(times)
    scheduler.sigmas = sigma / alpha
    scheduler.timesteps = torch.arange(len(times) - 1)
    return scheduler


def their_samples(scheduler, denoiser, x, times, noise=None):
    output_name = {"sample": "x0", "epsilon": "eps"}[scheduler.config.prediction_type]
    for i, timestep in enumerate(scheduler.timesteps):
        output = getattr(denoiser(x, times[i]), output_name)
        given = {"variance_noise": noise.at(i).like(x)} if noise is not None else {}
        x = scheduler.step(output, timestep, x, **given).prev_sample
    return x


PART = [{"spacing": "log_snr", "start": 0.95, "stop": 0.05}, {"spacing": "trailing", "stop": 0.02}]
WHOLE = [{"spacing": "log_snr"}, {"spacing": "trailing"}]


@pytest.mark.parametrize(("schedule", "steps"), crossed([Linear(1000), Cosine(1000)], [16, 30]))
@pytest.mark.parametrize(
    ("name", "kind", "order", "prediction", "ends", "atol"),
    [
        *(("2M by Euler", DPMSolverMultistepScheduler, 2, "sample", ends, 1e-5) for ends in PART + WHOLE),
        *(("3M by Euler as published", DPMSolverMultistepScheduler, 3, "sample", ends, 1e-5) for ends in PART + WHOLE),
        *(("UniPC-2 by Euler", UniPCMultistepScheduler, 2, "sample", ends, 1e-9) for ends in PART + WHOLE),
        *(("UniPC-3 by Euler", UniPCMultistepScheduler, 3, "sample", ends, 1e-9) for ends in PART),
        *(("DEIS-2 by Euler", DEISMultistepScheduler, 2, "epsilon", ends, 1e-9) for ends in PART),
        *(("DEIS-3 by Euler", DEISMultistepScheduler, 3, "epsilon", ends, 1e-9) for ends in PART),
    ],
)
def test_samples_are_those_of_diffusers(mixture, schedule, name, kind, order, prediction, ends, atol, steps):
    """All run in float64, except diffusers' multistep DPM-Solver, which rounds x to float32.

    Down to clean data diffusers' UniPC-3 takes the last but one step at order 2, and its DEIS has no step to clean
    data.
    """
    denoiser, (x, _) = mixture(schedule), draw(schedule, 16)
    ours = ALL[name](steps=steps, clip="none", **ends)
    times = ours.times(schedule)
    theirs = theirs_of(kind, schedule, times, solver_order=order, prediction_type=prediction)
    torch.testing.assert_close(ours(denoiser, x), their_samples(theirs, denoiser, x, times), rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_both_forms_of_unipc_are_those_of_diffusers(mixture, order, variant):
    schedule = Cosine(1000)
    denoiser, (x, _) = mixture(schedule), draw(schedule, 16)
    ours = UniPC(order=order, variant=variant, warm_start="euler", steps=12, start=0.95, stop=0.05, clip="none")
    times = ours.times(schedule)
    theirs = theirs_of(
        UniPCMultistepScheduler, schedule, times, solver_order=order, solver_type=variant, prediction_type="sample"
    )
    torch.testing.assert_close(ours(denoiser, x), their_samples(theirs, denoiser, x, times), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [16, 40])
@pytest.mark.parametrize("ends", PART + WHOLE)
def test_sde_2m_is_that_of_diffusers(mixture, ends, steps):
    schedule = Linear(1000)
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 16)
    ours = OTHERS["SDE-2M"](steps=steps, clip="none", **ends)
    times = ours.times(schedule)
    theirs = theirs_of(
        DPMSolverMultistepScheduler,
        schedule,
        times,
        solver_order=2,
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
    )
    expected = their_samples(theirs, denoiser, x, times, noise)
    torch.testing.assert_close(ours(denoiser, x, noise=noise), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "algorithm", "prediction"), [("2S", "dpmsolver++", "sample"), ("DPM-Solver-2", "dpmsolver", "epsilon")]
)
def test_single_steps_of_order_2_are_those_of_diffusers(mixture, name, algorithm, prediction):
    """Two timesteps of diffusers, the second in the middle in log-SNR, are one step."""
    schedule = Cosine(1000)
    denoiser, (x, _) = mixture(schedule), draw(schedule, 16)
    settings = between(schedule, -3.0, 3.0)
    times = SOLVERS[name](steps=20, **settings).times(schedule)
    theirs = theirs_of(
        DPMSolverSinglestepScheduler,
        schedule,
        times,
        solver_order=2,
        algorithm_type=algorithm,
        prediction_type=prediction,
    )
    theirs.order_list = [1, 2] * 10
    ours = SOLVERS[name](steps=10, **settings)(denoiser, x)
    torch.testing.assert_close(ours, their_samples(theirs, denoiser, x, times), rtol=0, atol=1e-5)


# Samples are finite and right, and sampling can be restarted

SCHEDULES = {name: option("schedule", name) for name in names("schedule")}
SCHEDULES |= {
    f"{name} zero terminal": option("schedule", name, zero_terminal_snr=True)
    for name, schedule in SCHEDULES.items()
    if "zero_terminal_snr" in inspect.signature(type(schedule)).parameters
}


@pytest.mark.parametrize(("schedule", "name"), crossed(list(SCHEDULES), list(ALL)))
def test_no_schedule_gives_nan(mixture, schedule, name):
    schedule = SCHEDULES[schedule]
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 3)
    spacings = [each for each in SPACINGS if schedule.num_steps is not None or each not in ("trailing", "leading")]
    for spacing in spacings:
        for steps in (1, 2, 5):
            for clip in ("none", "static"):
                sample = ALL[name](steps=steps, spacing=spacing, clip=clip)(denoiser, x, noise=noise)
                assert torch.isfinite(sample).all(), (spacing, steps, clip)
    assert torch.isfinite(ALL[name](steps=7, start=0.7, stop=0.2)(denoiser, x, noise=noise)).all()


def deviation_error(make, denoiser, settings, steps):
    """Return the relative error of the samples' standard deviations; sampling starts from the exact marginal."""
    covariance = denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T
    marginals = []
    for t in (settings.get("start", 1.0), settings.get("stop", 0.0)):
        alpha, sigma = denoiser.schedule(torch.tensor(t, dtype=torch.float64))
        noise = sigma**2 * torch.eye(2, dtype=torch.float64)
        marginals.append((alpha * denoiser.means, alpha**2 * covariance + noise))
    (mean, begin), (expected, end) = marginals
    x = torch.cat([mean, mean + torch.linalg.cholesky(begin).T])
    x = make(steps=steps, **{"clip": "none", **settings})(denoiser, x)
    torch.testing.assert_close(x[:1], expected, rtol=0, atol=1e-6)
    response = x[1:] - x[0]
    return float(((response.T @ response).diagonal() / end.diagonal()).sqrt().sub(1).abs().max())


ONE_PERCENT = {name: 20 if ORDERS[name] >= 3 else 40 for name in SOLVERS if ORDERS[name] >= 2} | {"UniPC-2 bh1": 40}


@pytest.mark.parametrize(("schedule", "name"), crossed([Linear(1000), Cosine(1000)], list(ONE_PERCENT)))
def test_gaussian_data_are_recovered_to_1_percent(gaussian, schedule, name):
    """log(alpha / sigma) goes from -5 to 4, in 20 steps for orders from 3 and 40 steps below; nothing is drawn."""
    error = deviation_error(SOLVERS[name], gaussian(schedule), between(schedule, -5.0, 4.0), ONE_PERCENT[name])
    assert error < 0.01


@pytest.mark.parametrize("name", ["3M", "3S", "DPM-Solver-3", "UniPC-2 bh2", "UniPC-3 bh1", "UniPC-3 bh2", "DEIS-3"])
def test_gaussian_data_are_recovered_to_1_percent_in_20_steps_from_noise_to_clean_data(gaussian, name):
    assert deviation_error(SOLVERS[name], gaussian(Linear(1000)), {}, 20) < 0.01


def test_sde_2m_converges_to_the_data(gaussian):
    """The covariance of its samples, computed exactly, converges with a weak order of about 2."""
    denoiser, errors = gaussian(Cosine(1000)), []
    variance = denoiser.rotations[0] @ torch.diag(denoiser.variances[0]) @ denoiser.rotations[0].T
    for steps in (20, 40, 80, 160):
        x = denoiser.means.repeat(3 + 2 * steps, 1) * 0
        x[1:3] += torch.eye(2, dtype=torch.float64)
        x = OTHERS["SDE-2M"](steps=steps, clip="none")(
            denoiser, x, noise=Impulses(2, {(Stream.STEP, step): step for step in range(steps)})
        )
        response = x[1:] - x[0]
        errors.append(float((response.T @ response - variance).norm()))
    assert slope([20, 40, 80, 160], errors) > 1.5
    assert errors[-1] < 0.003


@pytest.mark.parametrize(("schedule", "name"), crossed(["cosine", "flow", "ve", "linear zero terminal"], list(ALL)))
def test_single_steps_give_the_samples_and_do_not_change_the_sampler(mixture, schedule, name):
    schedule = SCHEDULES[schedule]
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 3)
    sampler = ALL[name](steps=8)
    before = dict(vars(sampler))
    whole, state, times = sampler(denoiser, x, noise=noise), None, sampler.times(schedule)
    for i in range(len(times) - 1):
        x, state = sampler.step(denoiser, x, times[i], times[i + 1], state, noise.at(i))
    torch.testing.assert_close(x, whole, rtol=1e-11, atol=1e-11)
    assert vars(sampler) == before


@pytest.mark.parametrize("name", ALL)
def test_a_trajectory_may_go_back_in_t_and_keep_its_state(mixture, name):
    """RePaint goes back so; outputs of lower or equal times are not interpolated."""
    schedule = Cosine(1000)
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 3)
    sampler, state = ALL[name](clip="none"), None
    for i, (t, s) in enumerate([(0.9, 0.8), (0.8, 0.7), (0.7, 0.6), (0.8, 0.7), (0.7, 0.6), (0.7, 0.6), (0.6, 0.5)]):
        pair = (torch.tensor(value, dtype=torch.float64) for value in (t, s))
        x, state = sampler.step(denoiser, x, *pair, state, noise.at(i))
        assert torch.isfinite(x).all()


@pytest.mark.parametrize("name", ["2S", "3S", "DPM-Solver-2", "DPM-Solver-3"])
def test_a_step_up_undoes_a_step_down(mixture, name):
    """The same formulas go from s to t, and the difference falls with the size of the step."""
    schedule = Cosine(1000)
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 8)
    t, differences = torch.tensor(0.5, dtype=torch.float64), []
    for size in (0.1, 0.05, 0.025):
        down, _ = SOLVERS[name](clip="none").step(denoiser, x, t, t - size, None, noise)
        up, _ = SOLVERS[name](clip="none").step(denoiser, down, t - size, t, None, noise)
        differences.append(float((up - x).norm()))
    assert slope([10, 20, 40], differences) > ORDERS[name] + 0.5


@pytest.mark.parametrize("kind", [DPMSolver, DPMSolverPP, UniPC, DEIS])
def test_an_x_changed_between_steps_stays_changed(mixture, kind):
    """Inpainting changes x so: UniPC's correction is added to x and does not replace it."""
    schedule = Cosine(1000)
    denoiser, (x, noise) = mixture(schedule), draw(schedule, 4)
    sampler, state = kind(clip="none"), None
    times = [torch.tensor(value, dtype=torch.float64) for value in (0.6, 0.58, 0.56, 0.54)]
    for i in range(2):
        x, state = sampler.step(denoiser, x, times[i], times[i + 1], state, noise.at(i))
    changed, _ = sampler.step(denoiser, x + 1.0, times[2], times[3], state, noise)
    unchanged, _ = sampler.step(denoiser, x, times[2], times[3], state, noise)
    assert ((changed - unchanged) > 0.5).all()


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        (DPMSolverPP, {"order": 4}, "sampler.order is one of 2, 3, not 4"),
        (DPMSolverPP, {"order": 1}, "sampler.order is one of 2, 3, not 1"),
        (DPMSolverPP, {"variant": "ode"}, "sampler.variant is one of multistep, singlestep, sde, not ode"),
        (DPMSolverPP, {"variant": "sde", "order": 3}, "sampler.order is 2 where sampler.variant=sde, not 3"),
        (DPMSolverPP, {"public_form": True}, "sampler.public_form"),
        (DPMSolverPP, {"public_form": True, "order": 3, "variant": "singlestep"}, "sampler.public_form"),
        (DPMSolverPP, {"warm_start": "ddim"}, "sampler.warm_start is one of singlestep, euler, not ddim"),
        (DPMSolver, {"order": 0}, "sampler.order is one of 1, 2, 3, not 0"),
        (UniPC, {"order": 4}, "sampler.order is one of 1, 2, 3, not 4"),
        (UniPC, {"variant": "bh3"}, "sampler.variant is one of bh1, bh2, not bh3"),
        (UniPC, {"warm_start": "none"}, "sampler.warm_start"),
        (DEIS, {"order": 5}, "sampler.order is one of 1, 2, 3, not 5"),
        (DEIS, {"warm_start": "none"}, "sampler.warm_start"),
    ],
)
def test_bad_values_are_refused(kind, bad, message):
    with pytest.raises(ValueError) as error:
        kind(**bad)
    assert message in str(error.value)
