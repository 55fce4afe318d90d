"""Inpainting in the plane: the truth by brute force, exact guidance passes, RePaint converges, others are biased."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from diffsweep.diffusion import V
from diffsweep.guidance import Reconstruction, RePaint, Replacement, unguided
from diffsweep.proof_plots import plot_passages
from diffsweep.proofs import Subject, base, inpainting
from diffsweep.proofs.data import exact_mixture
from diffsweep.proofs.inpainting import BETWEEN, inpainted, true_samples
from diffsweep.samplers import DDIM, DPMSolverPP, Heun
from diffsweep.schedules import VE, VP, Cosine, Linear

MASKED = SimpleNamespace(masks=object())  # a task of images with a mask


def test_true_samples_are_those_of_the_joint_distribution_near_the_known_value():
    x = exact_mixture(VP()).sample(400_000, torch.Generator().manual_seed(0))
    near, ours = x[(x[:, 0] - BETWEEN).abs() < 0.02][:, 1], true_samples(100_000, 1)
    for function in (lambda z: z, torch.square, torch.cos, lambda z: (z > 0).double()):
        a, b = function(near), function(ours)
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert (a.mean() - b.mean()).abs() < 5 * error + 0.01


def measured(subject):
    return {check.name: check for check in inpainted(subject)}


def test_guidance_that_is_exact_passes_and_replacement_is_biased(monkeypatch):
    monkeypatch.setattr(base, "MANY", 100)
    monkeypatch.setattr(inpainting, "COUNT", 256)
    exact = partial(Reconstruction, weight="covariance")
    checks = measured(Subject(VP(), V(), DPMSolverPP(steps=20), exact, task=MASKED))
    names = [f"100 steps: inpainting: {kind}" for kind in ("mean, error / std", "variance, relative error")]
    assert all(checks[name].required and checks[name].passed for name in names)
    biased = measured(Subject(VP(), V(), DPMSolverPP(steps=20), Replacement, task=MASKED))
    assert not any(biased[name].required for name in names)
    assert biased[names[0]].measured > 0.3
    monkeypatch.setattr(Reconstruction, "iterations", 1, raising=False)
    scalar = measured(Subject(VP(), V(), DPMSolverPP(steps=20), Reconstruction, task=MASKED))
    assert not scalar[names[0]].required
    assert scalar[names[0]].measured > 0.02


def test_repaint_converges_with_its_passages(monkeypatch):
    """The curves of the picture are those of the checks; with one passage all lengths of a jump are the same."""
    for name, value in (("PASSAGES", (1, 2, 8)), ("COUNT", 512), ("STEPS", 16), ("REFINED", ((6, 2), (24, 10)))):
        monkeypatch.setattr(inpainting, name, value)
    subject = Subject(Cosine(1000), V(), DPMSolverPP(), partial(RePaint, jump_length=4), task=MASKED)
    checks = measured(subject)
    assert all(check.passed for check in checks.values())
    assert checks["RePaint: error of the mean, 8 passages of single steps over one"].required
    for length in (1, 4):
        passages, errors = subject.passages[f"mean, {length} at a time"]
        assert passages == [1, 2, 8]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] == checks[f"RePaint, {length} of 16 steps at a time, 1 times: mean, error / std"].measured
    assert subject.passages["mean, 1 at a time"].errors[0] == subject.passages["mean, 4 at a time"].errors[0]
    assert subject.passages["mean, 1 at a time"].errors[-1] < subject.passages["mean, 4 at a time"].errors[-1]
    figure = plot_passages(subject.passages)
    assert [axis.get_title().partition(":")[0] for axis in figure.axes] == ["mean", "variance", "mixture"]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [Cosine(1000), Linear(1000), VE()])
@pytest.mark.parametrize("sampler", [Heun(), DPMSolverPP(), DDIM()], ids=lambda sampler: type(sampler).__name__)
def test_mean_and_variance_converge_where_steps_and_passages_double(schedule, sampler):
    """Second-order solvers lose most of either error; DDIM, of first order, keeps the variance's except on VE."""
    subject = Subject(schedule, V(), sampler, RePaint, task=MASKED)
    of_mean, of_variance = (check for check in inpainting._refined(subject) if " over " in check.name)
    assert of_mean.measured < 0.3
    assert of_mean.passed
    assert of_variance.passed
    assert of_variance.required == (sampler.order == 2)
    assert of_variance.measured > 0.3 or sampler.order == 2 or isinstance(schedule, VE)
    mean, variance = (subject.passages[f"{kind}, 12 to 96 steps"].errors for kind in ("mean", "variance"))
    for errors in (mean, variance):
        assert sampler.order == 1 or list(errors) == sorted(errors, reverse=True)


def test_it_is_of_tasks_with_a_mask_and_of_guidance_by_measurements():
    assert not list(inpainted(Subject(VP(), V(), DPMSolverPP(), RePaint)))
    assert not list(inpainted(Subject(VP(), V(), DPMSolverPP(), unguided, task=MASKED)))
