"""Proofs before training: right parts pass, wrong ones fail, and the certificate says what was measured."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy import stats
from slower import some

from diffsweep import proofs
from diffsweep.configuration.build import build
from diffsweep.diffusion import SharedNoise, V
from diffsweep.guidance import Reconstruction, Replacement, unguided
from diffsweep.proofs import (
    CLIP_COVARIANCE,
    CLIP_MEAN,
    COVARIANCE,
    MANY,
    MEAN,
    Check,
    Subject,
    bound,
    clips_of_shared_noise,
    completed,
    gaussian_moments,
    likelihood,
    order,
    round_trips,
    samples,
    sliced_wasserstein,
    slope,
    wasserstein,
)
from diffsweep.samplers import DDIM, ODE, Ancestral, DPMSolverPP, Heun, Langevin
from diffsweep.schedules import EDM, VP, Cosine, Linear, Schedule

CONF = Path(__file__).parents[2] / "conf"
SAMPLERS = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (CONF / "schedule").glob("*.yaml"))
BIASED = {"langevin"}  # no predictor takes its noise away: it never comes to the data, and verify says so


def failed(checks):
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("option", some(SAMPLERS, fast=2))
def test_every_sampler_is_proved_or_says_why_not(compose, option):
    sampler = build(compose(f"sampler={option}"), "sampler")
    if sampler.tolerance is None:
        sampler = sampler.with_steps(MANY)  # of fewer nothing is asked
    subject = Subject(Cosine(1000), V(), sampler)
    proofs = (order,) if option in BIASED else (order, samples)
    checks = [check for proof in proofs for check in proof(subject)]
    assert not failed(checks)
    assert (sampler.order is None) == ("order" not in subject.curves) or sampler.tolerance is not None


def test_clips_under_noise_that_frames_share(monkeypatch):
    """Deterministic and stochastic walks come to the data, and to data given known frames; with draws that share nothing they do not."""
    monkeypatch.setattr(proofs, "MANY", 60)
    noise = SharedNoise(0.6)
    for variant in ("multistep", "sde"):
        subject = Subject(VP(), V(), DPMSolverPP(variant=variant, steps=60), noise=noise)
        checks = list(clips_of_shared_noise(subject))
        assert [check.asked for check in checks] == [True, True]
        assert not failed(checks)
        _, wrong = proofs.moments(subject.clips, subject.sampler_with(clip="none"), CLIP_MEAN, CLIP_COVARIANCE)
        assert (wrong - CLIP_COVARIANCE).norm() > 0.2 * CLIP_COVARIANCE.norm()
    walk, guidance = Heun(steps=60, spacing="quadratic"), partial(Reconstruction, weight="covariance")
    assert not failed(completed(Subject(VP(), V(), walk, guidance, noise)))
    assert not list(clips_of_shared_noise(Subject(VP(), V(), walk)))


def test_a_sampler_that_keeps_some_noise_fails():
    assert failed(samples(Subject(Linear(1000), V(), Langevin(corrections=2, steps=500))))


@pytest.mark.parametrize("option", some(SCHEDULES, fast=2))
def test_every_schedule_is_proved(compose, option):
    """Conversions, the bound and the likelihood do not depend on the sampler."""
    torch.manual_seed(0)
    cfg = compose(f"schedule={option}", *(["objective=vlb", "schedule.width=8"] if option == "learned" else []))
    subject = Subject(build(cfg, "schedule"), V(), DDIM())
    with torch.no_grad():
        assert not failed([check for proof in (round_trips, bound, likelihood) for check in proof(subject)])


class SaysThree(DPMSolverPP):
    """A solver of order 2 that claims 3."""

    def __init__(self):
        super().__init__()
        self.order = 3


class Shifted(Schedule):
    """A schedule whose inverse is off."""

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
    """A prediction whose eps does not go with its target."""

    def eps(self, output, x_t, alpha, sigma):
        return sigma * x_t - alpha * output


class TooLoud(Ancestral):
    """Draws a tenth more than it should."""

    def __init__(self):
        super().__init__(steps=500, temperature=1.1)


@pytest.mark.parametrize(
    ("subject", "proof", "said"),
    [
        (Subject(Cosine(1000), V(), SaysThree()), order, "order of convergence (3)"),
        (Subject(Shifted(), V(), DDIM()), round_trips, "round trip of t and log-SNR"),
        (Subject(Cosine(1000), WrongSign(), DDIM()), round_trips, "round trip of the prediction: eps"),
        (Subject(Cosine(1000), V(), TooLoud()), samples, "500 steps: covariance, relative error"),
        (Subject(EDM(), V(), Heun(spacing="uniform")), samples, "500 steps: Wasserstein distance, Gaussian / std"),
    ],
    ids=["order", "inverse", "conversion", "noise", "spacing"],
)
def test_what_is_wrong_fails_and_is_named(subject, proof, said):
    assert said in failed(proof(subject))


def known_frames(sampler=None, **settings):
    guidance = partial(Reconstruction, weight="covariance", **settings)
    return list(completed(Subject(Cosine(1000), V(), DPMSolverPP() if sampler is None else sampler, guidance)))


@pytest.mark.parametrize("sampler", [None, DDIM(eta=0.5)], ids=["deterministic", "stochastic"])
def test_known_frames_are_proved(sampler):
    """By a solver of order 2 to 2 %; a stochastic one of 500 steps is told of, and is near."""
    checks = known_frames(sampler)
    assert not failed(checks)
    assert [check.asked for check in checks] == [sampler is None] * 2
    assert all(check.measured < 0.05 for check in checks)


def test_what_is_not_exact_with_known_frames_fails_or_is_told():
    assert "known frames, 500 steps: covariance, relative error" in failed(known_frames(iterations=1))
    checks = list(completed(Subject(Cosine(1000), V(), DPMSolverPP(), Replacement)))
    assert [check.name for check in checks if not check.asked and check.measured > 0.02] == [c.name for c in checks]
    assert len(checks) == 2
    assert not list(completed(Subject(Cosine(1000), V(), DPMSolverPP(), unguided)))


def test_nan_fails():
    assert not Check("x", math.nan).passed
    assert not Check("x", math.nan, most=1.0).passed
    assert Check("x", 1.0).passed
    assert not Check("x", 1.0).asked


@pytest.mark.parametrize("start", [1.0, 0.4])
def test_the_exact_moments_are_those_of_many_samples(start):
    subject = Subject(Linear(1000), V(), Ancestral(steps=20, start=start, clip="none"))
    mean, covariance = gaussian_moments(subject, subject.sampler)
    denoiser = subject.gaussian
    alpha, sigma = subject.schedule(torch.tensor(start).double())
    z = torch.randn(40_000, 2, dtype=torch.float64)
    x = sigma * z
    if start < 1:
        x = x + alpha * denoiser.denoiser.sample(len(x))
    x = subject.sampler(denoiser, x)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.003)


def test_a_walk_that_stops_above_0_is_compared_with_the_data_there():
    assert not failed(samples(Subject(Cosine(1000), V(), DPMSolverPP(stop=0.05, steps=600))))


def test_distances_are_those_of_closed_forms():
    """Gaussians with commuting covariances; points on a line against scipy; a slope."""
    a, b = torch.diag(torch.tensor([4.0, 1.0])).double(), torch.diag(torch.tensor([1.0, 9.0])).double()
    shift = torch.tensor([3.0, 0.0]).double()
    assert wasserstein(shift, a, 0 * shift, b) == pytest.approx(math.sqrt(9 + 1 + 4))
    assert wasserstein(MEAN, COVARIANCE, MEAN, COVARIANCE) == pytest.approx(0, abs=1e-7)
    x, y = torch.randn(2, 300, 2).double().unbind()
    assert sliced_wasserstein(x, x + shift) == pytest.approx(3 / math.sqrt(2), rel=1e-6)
    assert stats.wasserstein_distance(x[:, 0], y[:, 0]) <= float(
        (x[:, 0].sort().values - y[:, 0].sort().values).square().mean().sqrt()
    )
    assert slope([1, 2, 4], [3, 3 / 8, 3 / 64]) == pytest.approx(-3)
    assert math.isnan(slope([1], [2.0]))


def test_the_bound_is_below_by_what_the_variance_costs():
    """The best variance leaves nothing; a fixed one something."""
    chosen, best = bound(Subject(Linear(100), V(), DDIM()))
    assert chosen.measured > 0.05 > 10 * abs(best.measured)


# The command


def test_a_right_combination_passes(command, tmp_path):
    out = tmp_path / "out"
    done = command(
        "verify", "schedule=cosine", "prediction=v", "sampler=dpm_solver_pp", "sampler.steps=20", f"output={out}"
    )
    assert done.code == 0, done.err
    content = json.loads((out / "verify.json").read_text())
    assert content["passed"] is True
    assert content["choices"] == {
        "schedule": "cosine",
        "prediction": "v",
        "sampler": "dpm_solver_pp",
        "guidance": "none",
        "noise": "independent",
    }
    measured = next(check for check in content["checks"] if check["name"] == "order of convergence (2)")
    assert 1.8 <= measured["measured"] <= 2.3
    assert f"{measured['measured']:.3g}  pass  at least 1.8" in done.out
    assert (out / "verify.png").stat().st_size > 10_000
    for name in ("verify.json", "verify.png"):
        assert str(out / name) in done.out


def test_a_wrong_combination_ends_with_1_and_says_what(command, tmp_path):
    done = command("verify", "model=edm", "sampler=heun", "sampler.spacing=uniform", f"output={tmp_path / 'out'}")
    assert done.code == 1
    assert "FAIL" in done.out
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Wasserstein" in line
    assert "sampler.spacing" in line
    assert json.loads((tmp_path / "out" / "verify.json").read_text())["passed"] is False


def test_a_sweep_is_a_table_and_a_plot_and_goes_on_after_a_failure(command, tmp_path):
    out = tmp_path / "sweep"
    done = command(
        "verify",
        "-m",
        "schedule=edm",
        "prediction=edm",
        "sampler=heun",
        "sampler.spacing=uniform,karras",
        f"output={out}",
    )
    assert done.code == 1
    rows = [line.split() for line in done.out.splitlines() if line.strip().startswith("sampler.spacing-")]
    assert [row[0] for row in rows] == ["sampler.spacing-uniform", "sampler.spacing-karras"]
    assert [row[-2:] for row in rows] == [["(2)", "FAIL"], ["(2)", "pass"]]
    uniform, karras = (float(row[4]) for row in rows)  # at 100 evaluations
    assert karras < uniform / 10
    assert "1 of 2 did not pass: sampler.spacing-uniform" in done.err
    lines = (out / "errors.csv").read_text().splitlines()
    assert lines[0] == "name,kind,evaluations,error"
    assert len(lines) == 1 + 2 * 2 * 10
    assert (out / "errors.png").stat().st_size > 10_000


def test_training_can_begin_with_it(command, fast):
    done = command("train", *fast, "trainer.max_steps=2", "verify=true", "sampler=ddim", "sampler.steps=5")
    assert done.code == 0, done.err
    (certificate,) = Path("outputs").glob("train/*/verify.json")
    assert json.loads(certificate.read_text())["passed"] is True
    assert str(certificate) in done.out


def test_what_is_not_proved_is_not_trained(command, fast):
    done = command(
        "train", *fast, "verify=true", "schedule=edm", "prediction=edm", "sampler=heun", "sampler.spacing=uniform"
    )
    assert done.code == 1
    assert "checks failed" in done.err
    (certificate,) = Path("outputs").glob("train/*/verify.json")
    assert not (certificate.parent / "checkpoints").exists()


def test_adaptive_solvers_are_proved_by_their_tolerance():
    subject = Subject(Cosine(1000), V(), ODE(tolerance=1e-6))
    checks = list(order(subject)) + list(samples(subject))
    assert not failed(checks)
    assert checks[0].name == "error follows the tolerance: slope"
