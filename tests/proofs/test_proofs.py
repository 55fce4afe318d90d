"""Proofs before training: right parts pass, and wrong ones fail and are named."""

import math
from functools import partial

import pytest
import torch
from options import names
from slower import some

from diffsweep.configuration.build import build
from diffsweep.diffusion import ConsistencyPrediction, Eps, SharedNoise, V
from diffsweep.guidance import ClassifierFreeGuidance, Reconstruction, unguided
from diffsweep.proofs import Check, Subject, base
from diffsweep.proofs.base import MANY
from diffsweep.proofs.bound import bound
from diffsweep.proofs.clips import clips_of_shared_noise, completed
from diffsweep.proofs.conversions import round_trips
from diffsweep.proofs.curves import curves
from diffsweep.proofs.guidance import guided
from diffsweep.proofs.likelihood import likelihood
from diffsweep.proofs.order import order
from diffsweep.proofs.samples import samples
from diffsweep.samplers import DDIM, ODE, Ancestral, DPMSolverPP, Heun, Langevin
from diffsweep.schedules import EDM, VE, Cosine, Linear, Schedule

SAMPLERS, SCHEDULES = sorted(names("sampler"), key=lambda name: name == "consistency"), names("schedule")
BIASED = {"langevin"}  # no predictor removes its noise, so its samples never agree with the data


@pytest.fixture
def fewer_steps(monkeypatch):
    """Use 150 steps in place of 500; wrong parts are wrong with these too."""
    monkeypatch.setattr(base, "MANY", 150)


def failed(checks):
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("option", some(SAMPLERS, fast=2))
def test_every_sampler_passes_or_is_biased(compose, option):
    sampler = build(compose(f"sampler={option}"), "sampler")
    if sampler.tolerance is None:
        sampler = sampler.with_steps(MANY)  # with fewer steps nothing is required
    subject = Subject(Cosine(1000), V(), sampler)
    proofs = (order,) if option in BIASED else (order, samples)
    checks = [check for proof in proofs for check in proof(subject)]
    assert not failed(checks)
    assert (sampler.order is None) == ("order" not in subject.curves) or sampler.tolerance is not None


def test_a_sampler_that_keeps_some_noise_fails(fewer_steps):
    assert failed(samples(Subject(Linear(1000), V(), Langevin(corrections=2, steps=150))))


@pytest.mark.parametrize("option", some(SCHEDULES, fast=2))
def test_every_schedule_passes(compose, option):
    """Conversions, the bound and the likelihood do not depend on the sampler."""
    torch.manual_seed(0)
    cfg = compose(f"schedule={option}", *(["objective=vlb", "schedule.width=8"] if option == "learned" else []))
    subject = Subject(build(cfg, "schedule"), V(), DDIM())
    with torch.no_grad():
        assert not failed([check for proof in (round_trips, bound, likelihood) for check in proof(subject)])


def test_a_consistency_function_is_converted_at_all_levels_above_the_lowest():
    """At that level every output of the network gives x; a lower sigma_min leaves none out."""
    for lowest in (0.002, 0.001):
        assert not failed(round_trips(Subject(EDM(), ConsistencyPrediction(sigma_min=lowest), DDIM())))


def trailing(make, steps, **settings):
    return make(steps=steps, spacing="trailing", **settings)


SUBJECTS = {  # parts, and the numbers of steps with which samples are compared with the data
    "a grid of 10": ((Linear(10), V(), Ancestral(steps=7, spacing="leading")), (7, 10)),
    "as many as the grid has": (
        (Linear(30), V(), trailing(Heun, 30), partial(ClassifierFreeGuidance, scale=3.0)),
        (30,),
    ),
    "a part of a grid": ((Linear(100), V(), trailing(DPMSolverPP, 5, start=0.6, stop=0.1)), (5, 40)),
    "no grid": ((VE(), Eps(), Ancestral(steps=50)), (50,)),
    "known frames": (
        (Linear(30), V(), trailing(DDIM, 5), partial(Reconstruction, weight="covariance", scale=[1, 1, 1, 2, 2])),
        (5, 30),
    ),
    "shared noise": ((Linear(30), V(), trailing(Ancestral, 5), unguided, SharedNoise(0.6)), (5, 30)),
    "adaptive": ((Linear(30), V(), ODE(tolerance=1e-3), partial(ClassifierFreeGuidance, scale=3.0)), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SUBJECTS)
def test_possible_numbers_of_steps_are_compared_and_few_steps_only_reported(monkeypatch, case):
    """Every proof of samples reports something, for any grid, spacing, start and stop."""
    monkeypatch.setattr(base, "MANY", 40)
    monkeypatch.setattr("diffsweep.proofs.curves.COUNTS", (4, 200))
    parts, counts = SUBJECTS[case]
    subject = Subject(*parts)
    proofs = (samples, guided, completed, clips_of_shared_noise, curves)
    checks = [check for proof in proofs for check in proof(subject)]
    found = {int(check.name.split()[0]): check for check in checks if " steps: " in check.name}
    assert tuple(sorted(found)) == counts
    assert all(check.required == (n >= 40) for n, check in found.items())
    assert all(math.isfinite(check.measured) for check in checks)
    assert max(subject.curves["wasserstein"].evaluations) > 0


class ClaimsThree(DPMSolverPP):
    """A solver of order 2 that claims 3."""

    def __init__(self):
        super().__init__()
        self.order = 3


class Shifted(Schedule):
    """A schedule whose time_of is not the inverse of its log_snr."""

    def __init__(self):
        super().__init__()
        self.inner, self.num_steps, self.t_min = Cosine(1000), 1000, 1e-3

    def forward(self, t):
        return self.inner(t)

    def log_snr(self, t):
        return self.inner.log_snr(t)

    def time_of(self, log_snr):
        return self.inner.time_of(log_snr + 0.01)


class WrongSign(V):
    """A prediction whose eps does not agree with its target."""

    def eps(self, output, x_t, alpha, sigma):
        return sigma * x_t - alpha * output


class TooLoud(Ancestral):
    """An ancestral sampler that draws noise of 1.1 times the right size."""

    def __init__(self):
        super().__init__(steps=150, temperature=1.1)


@pytest.mark.parametrize(
    ("subject", "proof", "name"),
    [
        (Subject(Cosine(1000), V(), ClaimsThree()), order, "order of convergence (3)"),
        (Subject(Shifted(), V(), DDIM()), round_trips, "round trip of t and log-SNR"),
        (Subject(Cosine(1000), WrongSign(), DDIM()), round_trips, "round trip of the prediction: eps"),
        (Subject(Cosine(1000), V(), TooLoud()), samples, "150 steps: covariance, relative error"),
        (Subject(EDM(), V(), Heun(spacing="uniform")), samples, "150 steps: Wasserstein distance, Gaussian / std"),
    ],
    ids=["order", "inverse", "conversion", "noise", "spacing"],
)
def test_wrong_parts_fail_and_the_check_is_named(fewer_steps, subject, proof, name):
    assert name in failed(proof(subject))


def test_a_schedule_of_one_step_has_no_ode_to_prove():
    subject = Subject(Linear(1), V(), DDIM(steps=1))
    assert not [*order(subject), *likelihood(subject)]
    assert not failed([check for proof in (round_trips, bound, curves) for check in proof(subject)])


def test_nan_fails():
    assert not Check("x", math.nan).passed
    assert not Check("x", math.nan, most=1.0).passed
    assert Check("x", 1.0).passed
    assert not Check("x", 1.0).required


def test_samples_that_stop_above_0_are_compared_with_the_data_at_that_time(fewer_steps):
    assert not failed(samples(Subject(Cosine(1000), V(), DPMSolverPP(stop=0.05, steps=200))))


def test_the_bound_is_tight_with_the_best_variance_only():
    """With the best variance the gap is nearly 0; with a fixed one it is not."""
    chosen, best = bound(Subject(Linear(100), V(), DDIM()))
    assert chosen.measured > 0.05 > 10 * abs(best.measured)


@pytest.mark.slow
def test_the_error_of_adaptive_solvers_follows_the_tolerance():
    subject = Subject(Cosine(1000), V(), ODE(tolerance=1e-6))
    checks = list(order(subject)) + list(samples(subject))
    assert not failed(checks)
    assert checks[0].name == "error follows the tolerance: slope"
