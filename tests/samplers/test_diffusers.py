"""Samples equal those of diffusers' schedulers with the same noise; the network is a mixture's exact denoiser."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

from diffsweep.diffusion import X0, Eps, Noise, Stream, V
from diffsweep.samplers import DDIM, Ancestral
from diffsweep.schedules import Cosine, Linear

SCHEDULES = {"linear": Linear(1000), "cosine": Cosine(1000), "short linear": Linear(200), "short cosine": Cosine(200)}
PREDICTIONS = {"epsilon": Eps, "sample": X0, "v_prediction": V}


def theirs_of(kind, schedule, steps, spacing, **settings):
    """Return diffusers' scheduler with the schedule's betas and its tables in float64."""
    num_steps = schedule.num_steps
    alpha_bar = schedule(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps)[0] ** 2
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    scheduler = kind(num_train_timesteps=num_steps, trained_betas=betas.numpy(), timestep_spacing=spacing, **settings)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), alpha_bar[1:], rtol=1e-4, atol=1e-7)
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, alpha_bar[1:]
    scheduler.set_timesteps(steps)
    return scheduler


def output_of(denoiser, x, timestep, kind):
    """Return the perfect network's output in the units of a prediction; timestep i of diffusers is t = (i + 1) / T."""
    t = (timestep.double() + 1) / denoiser.schedule.num_steps
    alpha, sigma = denoiser.schedule(t)
    denoised = denoiser(x, t)
    return PREDICTIONS[kind]().target(denoised.x0, denoised.eps, alpha, sigma)


def draw():
    noise = Noise(0, torch.arange(16))
    return noise.normal(2, stream=Stream.PRIOR, dtype=torch.float64), noise


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize(
    ("schedule", "steps", "spacing", "prediction"),
    [
        ("short linear", 200, "leading", "epsilon"),
        ("short cosine", 200, "trailing", "v_prediction"),
        ("linear", 50, "trailing", "sample"),
        ("linear", 100, "leading", "v_prediction"),
        ("cosine", 40, "leading", "epsilon"),
    ],
)
def test_ancestral_is_ddpm(monkeypatch, mixture, schedule, steps, spacing, prediction, variance, clip):
    """Where the last timestep is above 0, diffusers would add noise to the clean sample; this noise is left out."""
    schedule = SCHEDULES[schedule]
    denoiser = mixture(schedule, PREDICTIONS[prediction](variance))
    start, noise = draw()
    clipping = "static" if clip else "none"
    ours = Ancestral(steps=steps, spacing=spacing, clip=clipping)(denoiser, start, noise=noise)
    theirs = theirs_of(
        DDPMScheduler, schedule, steps, spacing, prediction_type=prediction, variance_type=variance, clip_sample=clip
    )
    x = start
    for i, timestep in enumerate(theirs.timesteps):
        z = noise.at(i).like(x) if i < steps - 1 else torch.zeros_like(x)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z)
        x = theirs.step(output_of(denoiser, x, timestep, prediction), timestep, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("schedule", "steps", "spacing", "prediction"),
    [
        ("short linear", 200, "leading", "v_prediction"),
        ("linear", 50, "leading", "epsilon"),
        ("cosine", 20, "trailing", "sample"),
        ("cosine", 100, "leading", "v_prediction"),
    ],
)
def test_ddim_is_ddim(mixture, schedule, steps, spacing, prediction, eta, clip):
    """diffusers recomputes eps from the clipped x0 as an option; diffsweep always does."""
    schedule = SCHEDULES[schedule]
    denoiser = mixture(schedule, PREDICTIONS[prediction]())
    start, noise = draw()
    ours = DDIM(eta=eta, steps=steps, spacing=spacing, clip="static" if clip else "none")(denoiser, start, noise=noise)
    theirs = theirs_of(
        DDIMScheduler, schedule, steps, spacing, prediction_type=prediction, clip_sample=clip, set_alpha_to_one=True
    )
    x = start
    for i, timestep in enumerate(theirs.timesteps):
        output, z = output_of(denoiser, x, timestep, prediction), noise.at(i).like(x)
        step = theirs.step(
            output, timestep, x, eta=eta, use_clipped_model_output=clip, variance_noise=z if eta else None
        )
        x = step.prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_keeping_eps_after_clipping_gives_other_samples(mixture):
    """The comparison of the clipped cases distinguishes the two forms."""
    denoiser = mixture(SCHEDULES["linear"])
    start, _ = draw()
    ours = DDIM(steps=20, spacing="trailing")(denoiser, 3 * start)
    theirs, x = theirs_of(DDIMScheduler, denoiser.schedule, 20, "trailing", clip_sample=True), 3 * start
    for timestep in theirs.timesteps:
        x = theirs.step(output_of(denoiser, x, timestep, "epsilon"), timestep, x).prev_sample
    assert (ours - x).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_noise_is_added_as_diffusers_adds_it(kind):
    from diffsweep.diffusion import add_noise

    schedule, (x_0, noise) = SCHEDULES["linear"], draw()
    theirs = theirs_of(kind, schedule, 10, "leading")
    timesteps = torch.arange(16) * 60
    eps = noise.like(x_0, Stream.EPS)
    expected = theirs.add_noise(x_0, eps, timesteps)
    torch.testing.assert_close(
        add_noise(schedule, x_0, (timesteps.double() + 1) / 1000, eps), expected, rtol=0, atol=1e-9
    )
