"""Classifier guidance against its formula over exact posteriors, and against ADM's shift of the mean."""

import itertools

import pytest
import torch

from diffsweep.diffusion import Condition, GaussianMixtureDenoiser
from diffsweep.diffusion.process import step_between
from diffsweep.guidance import ClassifierGuidance
from diffsweep.samplers import Ancestral
from diffsweep.schedules import VE, Cosine, Flow, Linear

MEANS = torch.tensor([[0.6, 0.5], [-0.6, 0.2], [0.1, -0.7]], dtype=torch.float64)
COVARIANCES = torch.diag_embed(torch.tensor([[0.08, 0.05], [0.04, 0.1], [0.06, 0.03]], dtype=torch.float64))
CLASSES = torch.tensor([0, 1, 0])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def exact(schedule):
    return GaussianMixtureDenoiser(schedule, MEANS, COVARIANCES, WEIGHTS, classes=CLASSES)


def guided_by(denoiser, classifier, scale=1.0):
    return ClassifierGuidance(denoiser, lambda: classifier, scale)


def points(count=12):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def log_posterior(x, t, schedule, label):
    """Return log p(y | x_t), computed with torch's distributions."""
    alpha, sigma = schedule(t)
    normal = torch.distributions.MultivariateNormal(
        alpha * MEANS, alpha**2 * COVARIANCES + sigma**2 * torch.eye(2).double()
    )
    joint = normal.log_prob(x[:, None]) + WEIGHTS.log()  # (B, 3)
    return joint[:, label == CLASSES].logsumexp(1) - joint.logsumexp(1)


def gradient(x, t, schedule, label):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_posterior(x, t, schedule, label).sum(), x)[0]


@pytest.mark.parametrize("schedule", [Cosine(1000), VE(), Flow()], ids=["cosine", "ve", "flow"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_the_score_gets_the_gradient_of_the_log_posterior(schedule, scale):
    denoiser, x = exact(schedule), points()
    for t, label in itertools.product((0.05, 0.4, 0.95), (0, 1)):
        t = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = schedule(t)
        guided = guided_by(denoiser, denoiser, scale)(x, t, Condition(vector=torch.full((12,), label)))
        # The exact denoiser is conditioned on the class as well, so without guidance its score is score(x | y).
        plain = denoiser(x, t, Condition(vector=torch.full((12,), label)))
        expected = -plain.eps / sigma + scale * gradient(x, t, schedule, label)
        torch.testing.assert_close(-guided.eps / sigma, expected, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x, rtol=1e-9, atol=1e-9)


def test_an_unconditional_model_with_the_perfect_classifier_is_the_conditional_model():
    """By Bayes' rule score(x) + grad log p(y|x) = score(x|y), the guided score at scale 1."""
    schedule, x, t = Cosine(1000), points(), torch.tensor(0.3, dtype=torch.float64)
    unconditional = GaussianMixtureDenoiser(schedule, MEANS, COVARIANCES, WEIGHTS)
    cond = Condition(vector=torch.ones(12, dtype=torch.int64))
    guided = guided_by(unconditional, exact(schedule), 1.0)(x, t, cond)
    torch.testing.assert_close(guided.x0, exact(schedule)(x, t, cond).x0, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [50, 200, 800])
def test_it_is_adms_shift_of_the_mean_up_to_higher_order(steps):
    """The mean of a step is shifted by beta / sqrt(1 - beta), and in ADM by the step's variance, beta for fixed_large.

    The relative difference is 1 / sqrt(1 - beta) - 1, which halves with the size of the step.
    """
    schedule, x = Linear(1000), points()
    t, s = torch.tensor(0.5).double(), torch.tensor(0.5 - 1 / steps).double()
    denoiser, cond = GaussianMixtureDenoiser(schedule, MEANS, COVARIANCES), Condition(vector=torch.ones(12).long())
    pair = step_between(schedule, s, t)
    sampler = Ancestral(steps=steps, clip="none", temperature=0.0)

    def mean(d):
        from diffsweep.samplers.base import fresh_noise

        return sampler.step(d, x, t, s, None, fresh_noise(x), cond)[0]

    ours = mean(guided_by(denoiser, exact(schedule), 2.0)) - mean(denoiser)
    beta = pair.var_ts
    theirs = 2.0 * beta * gradient(x, t, schedule, 1)
    torch.testing.assert_close(ours / theirs, (1 / (1 - beta).sqrt()).expand_as(ours), rtol=1e-6, atol=0)
    assert (ours / theirs - 1).abs().max() < 0.6 * beta


def test_where_alpha_is_0_nothing_changes():
    schedule = Linear(1000, zero_terminal_snr=True)
    x, t = points(), torch.ones((), dtype=torch.float64)
    denoiser, cond = exact(schedule), Condition(vector=CLASSES.repeat(4))
    guided, plain = guided_by(denoiser, denoiser, 5)(x, t, cond), denoiser(x, t, cond)
    assert torch.equal(guided.x0, plain.x0)
    assert torch.equal(guided.eps, plain.eps)


def test_null_conditions_are_not_guided_and_a_negative_class_is_subtracted():
    schedule, x, t = Cosine(1000), points(3), torch.tensor(0.3, dtype=torch.float64)
    denoiser = exact(schedule)
    cond = Condition(vector=torch.tensor([1, 1, 0]), is_null=torch.tensor([False, True, False]))
    guidance = guided_by(denoiser, denoiser)
    g = guidance.gradient(x, t, cond)
    assert not g[1].any()
    torch.testing.assert_close(g[0], gradient(x, t, schedule, 1)[0])
    cond = Condition(vector=torch.tensor([1, 1, 0]), negative=Condition(vector=torch.tensor([0, 0, 0])))
    expected = gradient(x, t, schedule, 1) - gradient(x, t, schedule, 0)
    expected[2] = 0
    torch.testing.assert_close(guidance.gradient(x, t, cond), expected, rtol=1e-7, atol=1e-9)


def test_the_gradient_is_computed_in_float32():
    dtypes = []

    class Classifier(torch.nn.Module):
        def log_prob(self, x_t, t):
            dtypes.append((x_t.dtype, (x_t @ torch.ones(2, 2)).dtype))
            return x_t.log_softmax(1)

    with torch.autocast("cpu", torch.bfloat16):
        guided = guided_by(exact(Flow()), Classifier())
        x = points(2).to(torch.bfloat16)
        denoised = guided(x, torch.tensor(0.5), Condition(vector=torch.tensor([0, 1])))
    assert dtypes == [(torch.float32, torch.float32)]
    assert denoised.eps.dtype == torch.bfloat16


def test_the_classifier_is_made_at_its_first_use():
    made = []

    def make():
        made.append(True)
        return exact(Flow())

    guided = ClassifierGuidance(exact(Flow()), make, scale=2.0)
    assert not made
    cond = Condition(vector=torch.tensor([0, 1]))
    for _ in range(2):
        guided(points(2), torch.tensor(0.5), cond)
    assert made == [True]


@pytest.mark.parametrize("cond", [None, Condition(), Condition(vector=torch.randn(2, 3))])
def test_without_classes_it_is_refused(cond):
    with pytest.raises(ValueError, match="classifier guidance needs a class to guide towards"):
        guided_by(exact(Flow()), exact(Flow())).gradient(points(2), torch.tensor(0.5), cond)
