"""RePaint: its path against the published one, its steps against a loop by hand, its samples against closed forms."""

from itertools import pairwise

import pytest
import torch

from diffsweep.configuration.preflight import preflight
from diffsweep.diffusion import (
    Condition,
    GaussianDenoiser,
    Impulses,
    Known,
    Noise,
    PixelMask,
    Step,
    Stream,
    counting,
    in_numbers,
    joined,
    prior,
    step_between,
    steps_of,
)
from diffsweep.errors import UserError
from diffsweep.guidance import ClassifierFreeGuidance, Reconstruction, RePaint, Replacement, composed
from diffsweep.proofs.inpainting import conditional
from diffsweep.samplers import DDIM, ODE, Ancestral, DPMSolverPP, Heun
from diffsweep.schedules import VE, Cosine, Flow

MEAN = torch.tensor([0.2, -0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.08, 0.05], [0.05, 0.06]], dtype=torch.float64)
VALUE = 0.6  # of the first number, which is known


def given(count, **parts):
    mask = torch.tensor([True, False]).expand(count, 2)
    y = torch.tensor([VALUE, torch.nan], dtype=torch.float64).expand(count, 2)
    return Condition(known=Known(PixelMask(mask), y), **parts)


def exact(schedule):
    return GaussianDenoiser(schedule, MEAN, COVARIANCE)


def start(schedule, count, first=0):
    noise = Noise(3, torch.arange(first, first + count))
    return prior(schedule, noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64)), noise


def published(steps, length, resamplings):
    """Return the states that the paper's algorithm goes through, as numbers of steps left, each step up by itself."""
    repeats = dict.fromkeys(range(0, steps - length, length), resamplings - 1)
    t, states = steps, []
    while t >= 1:
        t -= 1
        states.append(t)
        if repeats.get(t, 0) > 0:
            repeats[t] -= 1
            for _ in range(length):
                t += 1
                states.append(t)
    return [state + 1 for state in states] + [0]  # 0: its last step, to clean data


@pytest.mark.parametrize(
    ("steps", "length", "resamplings"), [(20, 1, 3), (50, 10, 6), (51, 10, 2), (7, 6, 4), (9, 2, 1)]
)
def test_the_path_is_the_published_one(steps, length, resamplings):
    levels = in_numbers(steps_of(Cosine(1000), DDIM(steps=steps).times(Cosine(1000))))
    left = {float(step.at_t.t): steps - i for i, step in enumerate(levels)} | {0.0: 0}
    ours = [steps]
    moves = RePaint(exact(Cosine(1000)), length, resamplings).path(levels, measured=True)
    for step, up in moves:
        begin, end = (left[float(level.t)] for level in ((step.at_s, step.at_t) if up else (step.at_t, step.at_s)))
        assert begin == ours[-1]
        ours += range(begin + 1, end + 1) if up else [end]
    assert ours == published(steps, length, resamplings)
    down = sum(not move.up for move in moves)
    assert down == steps + (resamplings - 1) * length * ((steps - 1) // length)


def test_parts_outside_the_interval_are_passed_once():
    levels = in_numbers(steps_of(Cosine(1000), DDIM(steps=10).times(Cosine(1000))))
    moves = RePaint(exact(Cosine(1000)), 2, 3, interval=(0.25, 0.75)).path(levels, measured=True)
    ups = [(round(float(step.at_t.t), 9), round(float(step.at_s.t), 9)) for step, up in moves if up]
    assert ups == [(0.7, 0.5), (0.7, 0.5), (0.5, 0.3), (0.5, 0.3)]


@pytest.mark.parametrize("schedule", [Cosine(1000), Cosine(1000, zero_terminal_snr=True), VE(), Flow()])
def test_several_steps_up_are_one(schedule):
    times = DDIM(steps=12).times(schedule)
    steps = in_numbers(steps_of(schedule, times))
    for first, last in ((0, 4), (3, 3), (2, 10)):
        ours = joined(steps[first : last + 1])
        (expected,) = in_numbers(step_between(schedule, times[last + 1][None], times[first][None]))
        assert isinstance(ours, Step)
        assert (ours.at_t, ours.at_s) == (expected.at_t, expected.at_s)
        assert ours.var_ts == pytest.approx(expected.var_ts, rel=1e-9)
        assert ours.var_post == pytest.approx(expected.var_post, rel=1e-9)


@pytest.mark.parametrize(
    "sampler", [Ancestral(steps=6, clip="none"), DPMSolverPP(steps=6, clip="none")], ids=["sde", "ode"]
)
def test_the_moves_are_those_of_a_loop_by_hand(sampler):
    """Noise is counted by streams of its own, and a multistep solver forgets its history where it goes back."""
    schedule = Cosine(1000)
    denoiser, times = exact(schedule), sampler.times(schedule)
    x, noise = start(schedule, 4)
    ours = sampler(RePaint(denoiser, jump_length=2, resamplings=2), x, given(4), noise)
    state, backs, steps = None, 0, ((0, 1), (1, 2), (2, 3), (1, 2), (2, 3), (3, 4), (4, 5), (3, 4), (4, 5), (5, 6))
    for taken, (begin, end) in enumerate(steps):
        if taken in (3, 7):  # two steps back, from x_s to x_t
            s, t = times[begin + 2], times[begin]
            (alpha_s, sigma_s), (alpha_t, sigma_t) = (map(float, schedule(time)) for time in (s, t))
            spread = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2) ** 0.5
            x, state = alpha_t / alpha_s * x + spread * noise.at(backs).like(x, Stream.RAISE), None
            backs += 1
        x, state = sampler.step(denoiser, x, times[begin], times[end], state, noise.at(taken), to_clean=end == 6)
        alpha, sigma = schedule(times[end]) if end < 6 else (1.0, 0.0)
        x[:, 0] = alpha * VALUE + sigma * noise.at(taken).like(x, Stream.KNOWN)[:, 0]
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)
    assert torch.equal(ours[:, 0], torch.full((4,), VALUE, dtype=torch.float64))


def test_a_sample_does_not_depend_on_its_batch():
    schedule, sampler = Flow(), Ancestral(steps=9, clip="none")
    guided = RePaint(exact(schedule), jump_length=3, resamplings=3)
    x, noise = start(schedule, 5)
    together = sampler(guided, x, given(5), noise)
    for i in range(5):
        x, noise = start(schedule, 1, first=i)
        torch.testing.assert_close(sampler(guided, x, given(1), noise), together[i : i + 1], rtol=1e-12, atol=1e-12)


def test_without_a_measurement_nothing_changes():
    schedule, sampler = Cosine(1000), Ancestral(steps=20, temperature=0.8)
    x, noise = start(schedule, 4)
    plain = sampler(exact(schedule), x, noise=noise)
    with counting(denoiser := exact(schedule)) as count:
        assert torch.equal(sampler(RePaint(denoiser), x, noise=noise), plain)
    assert count.calls == 20


def test_network_calls_and_callbacks_are_those_of_the_moves():
    """50 steps in jumps of 10, each part passed 6 times, are 250 network calls; so too inside other guidance."""
    schedule = Cosine(1000)
    x, noise = start(schedule, 2)
    for make in (
        lambda denoiser: RePaint(denoiser, 10, 6),
        lambda denoiser: composed(
            denoiser, lambda d, times: RePaint(d, 10, 6), lambda d, times: ClassifierFreeGuidance(d, 1.0)
        ),
    ):
        denoiser, steps = exact(schedule), []
        with counting(denoiser) as count:
            DDIM(steps=50)(make(denoiser), x, given(2), noise, lambda i, *_, steps=steps: steps.append(i))
        assert count.calls == 250
        assert steps == list(range(250))


def moments(guided, sampler):
    """Return mean and variance of the unknown number of the samples, from their response to unit impulses of noise."""
    schedule, impulses = guided.schedule, Impulses(2, {})
    sampler(guided, torch.zeros(1, 2, dtype=torch.float64), given(1), impulses)
    x = torch.zeros(3 + 2 * len(impulses.draws), 2, dtype=torch.float64)
    x[1:3] = float(schedule(torch.ones((), dtype=torch.float64))[1]) * torch.eye(2)
    x = sampler(guided, x, given(len(x)), impulses)[:, 1]
    return float(x[0]), float((x[1:] - x[0]).square().sum())


@pytest.mark.parametrize(("steps", "most"), [(16, 16), pytest.param(30, 32, marks=pytest.mark.slow)])
def test_samples_approach_the_conditional_distribution_with_more_passages(steps, most):
    """The mean and variance of the unknown number are exact numbers, not estimates; replacement stays biased."""
    gain = COVARIANCE[0, 1] / COVARIANCE[0, 0]
    mean, variance = float(MEAN[1] + gain * (VALUE - MEAN[0])), float(COVARIANCE[1, 1] - gain * COVARIANCE[0, 1])
    denoiser, sampler, errors = exact(Cosine(1000)), DPMSolverPP(steps=steps, clip="none"), []
    for resamplings in (1, 4, most):
        m, v = moments(RePaint(denoiser, 1, resamplings), sampler)
        errors.append((abs(m - mean) / variance**0.5, abs(v / variance - 1)))
    assert all(after[0] < before[0] for before, after in pairwise(errors))
    assert errors[0][0] > 0.5
    assert errors[-1][0] < 3 / most * errors[0][0]
    assert errors[-1][1] < 1.5 / most
    biased, _ = moments(Replacement(denoiser), sampler)
    assert abs(biased - mean) / variance**0.5 > 0.5


WRONG = [
    (("guidance=repaint", "sampler=ode"), "required_capabilities_are_provided", "use sampler="),
    (("guidance=repaint", "sampler.steps=10"), "guidance_suits_the_number_of_steps", "guidance.jump_length=9 or less"),
    (("guidance=repaint_free",), "required_capabilities_are_provided", "use model=classifier_free"),
]


@pytest.mark.parametrize(("typed", "name", "fix"), WRONG, ids=[" ".join(typed) for typed, _, _ in WRONG])
def test_rules_refuse_what_cannot_be_done(compose, typed, name, fix):
    with pytest.raises(UserError) as refused:
        preflight(compose(*typed))
    assert str(refused.value).endswith(f"[rule {name}]")
    assert fix in str(refused.value)


def test_settings_out_of_range_are_refused():
    denoiser = exact(Flow())
    for settings, message in (
        ({"jump_length": 0}, "guidance.jump_length"),
        ({"resamplings": 0}, "guidance.resamplings"),
    ):
        with pytest.raises(ValueError, match=message):
            RePaint(denoiser, **settings)
    x, noise = start(Flow(), 1)
    with pytest.raises(ValueError, match=r"use guidance.jump_length=4 or less, or sampler.steps=11 or more"):
        Heun(steps=5)(RePaint(denoiser), x, given(1), noise)
    with pytest.raises(ValueError, match="an adaptive solver chooses its own"):
        ODE(steps=20)(RePaint(denoiser), x, given(1), noise)


@pytest.mark.parametrize("passages", [1, 3])
def test_around_exact_reconstruction_mean_and_variance_stay_exact(passages):
    """The known part is independent of the rest given y, and steps back are those of the process: both keep p(x|y)."""
    inner = Reconstruction(exact(Cosine(1000)), weight="covariance")
    mean, variance = conditional(MEAN, COVARIANCE, VALUE)
    ours = moments(RePaint(inner, 2, passages), DPMSolverPP(steps=80, clip="none"))
    assert abs(ours[0] - mean) < 0.02 * variance**0.5
    assert ours[1] == pytest.approx(float(variance), rel=0.02)
