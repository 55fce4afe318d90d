"""Stochastic inversion (arXiv:2211.13203) before editing: closed forms on Gaussian data, and the task that uses it."""

import pytest
import torch

from diffsweep.configuration.build import build_data, build_diffusion
from diffsweep.degradations import Border
from diffsweep.diffusion import GaussianDenoiser
from diffsweep.guidance import Replacement, unguided
from diffsweep.samplers import DDIM, Heun
from diffsweep.tasks import Edit, Job

MEAN, STD, COUNT = 0.2, 0.5, 512


@pytest.fixture(scope="module")
def job(compose, tmp_path_factory):
    """A job whose model is the exact denoiser of Gaussian pixels, and which shows no pictures."""
    cfg = compose("backbone.channels=8", "backbone.num_res_blocks=1", "metrics=none")
    model = build_diffusion(cfg).eval().requires_grad_(False)
    mean, covariance = torch.full((64,), MEAN), STD**2 * torch.eye(64)
    model.denoiser, model.guidance = GaussianDenoiser(model.denoiser.schedule, mean, covariance), unguided
    model.denoiser.weight = torch.nn.Parameter(torch.zeros(()), requires_grad=False)  # a model has the type of one
    return Job(model, build_data(cfg), tmp_path_factory.mktemp("edit"), 4, 7, 4)


@pytest.fixture(scope="module")
def images():
    return MEAN + STD * torch.randn(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("start", [1e-4, 0.3, 0.6, 0.9])
def test_on_gaussian_data_noise_and_error_are_those_of_the_closed_form(job, images, start):
    """The predicted noise is linear in x_t. The mean square errors follow with r = s alpha / sqrt(v), by which the
    trajectories from t to 0 shrink: s^2 (2 - 2 r) from x_t, and s^2 (2 - 4 r + r^2 + 2 r^3 - r^4) by the inversion."""
    model, rows = job.model, torch.arange(COUNT)
    model.sampler = Heun(steps=40, start=start, clip="none")
    alpha, sigma = (float(value) for value in model.denoiser.schedule(torch.tensor(start).double()))
    v = alpha**2 * STD**2 + sigma**2
    x_t, noise = model.start(rows, 3, source=images)
    z, _ = model.start_inverted(rows, 3, images)
    torch.testing.assert_close(z, alpha * images + sigma**2 / v * (x_t - alpha * MEAN), rtol=1e-4, atol=1e-5)
    spread = (z - alpha * images - sigma**2 / v * alpha * (images - MEAN)).std()
    assert float(spread) == pytest.approx(sigma**3 / v, rel=0.03, abs=1e-6)
    r = STD * alpha / v**0.5
    errors = [float((model.sample_from(x, noise) - images).square().mean()) for x in (x_t, z)]
    for error, expected in zip(errors, (2 - 2 * r, 2 - 4 * r + r**2 + 2 * r**3 - r**4), strict=True):
        assert error == pytest.approx(STD**2 * expected, rel=0.05, abs=1e-7)
    assert errors[1] < errors[0]
    assert errors[1] < 1e-3 or start > 1e-3  # without noise an image stays as it is


def test_an_edit_starts_from_the_predicted_noise(job):
    """It costs one evaluation more, and with a mask known pixels stay as they are to the bit."""
    job.model.sampler = DDIM(steps=3, start=0.6)
    drawn, line = Edit(stochastic_inversion=True)(job)
    truth, rows = job.data.split("val")["x"][:4], torch.arange(4)
    assert torch.equal(drawn.x, job.model.sample_from(*job.model.start_inverted(rows, 7, truth)))
    assert drawn.evaluations == 4
    assert line == "4 images edited from t = 0.6, by the predicted noise"
    job.model.guidance = Replacement
    masked, _ = Edit(stochastic_inversion=True, mask="degradation", degradation=Border())(job)
    assert torch.equal(masked.x[..., :4], truth[..., :4])
    # pixels are independent
    torch.testing.assert_close(masked.x[..., 4:], drawn.x[..., 4:])
