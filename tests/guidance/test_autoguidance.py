"""Autoguidance against the scores of Gaussian mixtures, which have a closed form."""

from types import SimpleNamespace

import pytest
import torch

from diffsweep.diffusion import GaussianMixtureDenoiser
from diffsweep.guidance import AutoGuidance
from diffsweep.samplers import DDIM
from diffsweep.schedules import VP, Cosine, Flow


def blurred(schedule):
    """Return a weaker model: the exact denoiser of one broad Gaussian."""
    mean, covariance = torch.tensor([[0.1, 0.1]]).double(), 0.8 * torch.eye(2).double()[None]
    return GaussianMixtureDenoiser(schedule, mean, covariance)


def guided_by(main, weak, scale):
    return AutoGuidance(main, lambda: SimpleNamespace(denoiser=weak), scale)


@pytest.mark.parametrize("schedule", [Cosine(100), VP(), Flow()], ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 3.5])
def test_the_score_is_that_of_the_densities_ratio(mixture, schedule, t, scale):
    """The score is the gradient of log(p_main^s p_weak^(1 - s)), by automatic differentiation."""
    main, weak, t = mixture(schedule), blurred(schedule), torch.tensor(t).double()
    alpha, sigma = schedule(t)
    x = torch.randn(16, 2).double().requires_grad_()
    tilted = scale * main.log_density(x, t) + (1 - scale) * weak.log_density(x, t)
    (score,) = torch.autograd.grad(tilted.sum(), x)
    denoised = guided_by(main, weak, scale)(x.detach(), t)
    torch.testing.assert_close(-denoised.eps / sigma, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x.detach())


def test_scale_one_is_the_main_model_and_makes_no_weaker_one(mixture):
    def never():
        raise AssertionError

    main = mixture(Cosine(100))
    x = torch.randn(8, 2).double()
    guided = AutoGuidance(main, never, scale=1)
    assert torch.equal(DDIM(steps=10, clip="none")(guided, x), DDIM(steps=10, clip="none")(main, x))


def test_the_weaker_model_is_called_once_after_the_main_one_with_the_same_arguments(mixture):
    main, weak = mixture(Cosine(100)), blurred(Cosine(100))
    calls = []
    for name, denoiser in (("main", main), ("weak", weak)):
        denoiser.register_forward_pre_hook(lambda module, given, name=name: calls.append((name, *given)))
    guided_by(main, weak, 2)(torch.ones(3, 2).double(), torch.tensor(0.3))
    (first, x, t, cond), (second, *same) = calls
    assert (first, second) == ("main", "weak")
    assert same[0] is x
    assert same[1] is t
    assert same[2] is cond


def test_variance_and_schedule_are_the_main_models(mixture):
    main = mixture(Cosine(100))
    main.forward = lambda x, t, cond=None: type(main).forward(main, x, t, cond)._replace(variance_mix=x)
    guided, x = guided_by(main, blurred(Cosine(100)), 2.0), torch.ones(3, 2).double()
    assert guided(x, torch.tensor(0.3)).variance_mix is x
    assert guided.schedule is main.schedule
    assert guided.prediction is main.prediction
