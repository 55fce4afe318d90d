"""Models of degraded images: in pixels and in latents, and a regression as the other extreme."""

from unittest import mock

import pytest
import torch
from hydra.utils import instantiate
from linear import Perfect
from torch.nn import functional

from diffsweep.autoencoders import FirstStage, Identity
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.preflight import preflight
from diffsweep.degradations import Box
from diffsweep.diffusion import Condition, Noise, Pasted, counting

SMALL = ("backbone.channels=8", "sampler.steps=2", "metrics=none", "logger=csv")


def first_stage():
    perfect = Perfect(1, 8, 2)
    perfect.standardise(torch.linspace(-0.2, 0.2, 4), torch.tensor(0.7))
    return FirstStage(4, 4, 2, lambda: Perfect(1, 8, 2), lambda: perfect)


def test_in_latents_the_image_is_encoded_and_the_mask_scaled_to_their_grid():
    space, x, noise = first_stage(), torch.rand(3, 1, 8, 8) * 2 - 1, Noise(0, torch.arange(3))
    known = Box(0.4).known(x, noise)
    image = Box(0.4).image(x, noise)
    cond = Condition(vector=torch.arange(3), image=image, known=known, pasted=Pasted(known, 1))
    inside = space.condition_in_space(cond)
    assert inside.image.shape == (3, 5, 4, 4)
    torch.testing.assert_close(space.decode(inside.image[:, :4]), image[:, :1], rtol=0, atol=1e-5)
    shares = image[:, 1:].unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    torch.testing.assert_close(inside.image[:, 4:], shares)
    assert inside.known is None  # a measurement of pixels is none of latents
    assert inside.pasted is cond.pasted
    assert torch.equal(inside.vector, cond.vector)
    assert space.condition_in_space(None) is None
    assert Identity(1, 8).condition_in_space(cond) is cond


def one_step(model, data):
    """Return the loss of a training batch, and samples."""
    indices = torch.arange(4)
    loss = model.training_step({**data.split("train")[indices], "position": indices}, 0)
    return loss, model.sample(indices, 0, model.request(indices, data.split("val"))[1])


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_an_inpainter_trains_and_its_samples_have_the_known_pixels(compose, space):
    latents = ("model=ldm", "autoencoder.network.channels=8", "autoencoder.cache=false")
    cfg = compose(
        *(latents if space == "latents" else ()),
        "conditioning=image",
        "degradation=mask_half",
        "conditioning.seam=1",
        *SMALL,
    )
    preflight(cfg)

    def untrained(**_):
        return instantiate(cfg.autoencoder.network)()

    with mock.patch("diffsweep.configuration.loading.trained", untrained):
        model, data = build_model(cfg), build_data(cfg)
        assert isinstance(model.autoencoder, FirstStage) == (space == "latents")
        loss, samples = one_step(model, data)
    channels = model.autoencoder.shape[0]
    assert model.denoiser.backbone.options.image_channels == channels + 1
    assert torch.isfinite(loss)
    clean = data.split("val")["x"][:4]
    assert torch.equal(samples[..., :3], clean[..., :3])  # the fourth column is blended
    assert not torch.equal(samples[..., 4:], clean[..., 4:])


def test_a_super_resolved_image_has_the_means_of_the_small_one(compose):
    """With the replacement method all of its samples have them; without, an untrained network has not."""
    apart = {}
    for guidance in ("none", "replacement"):
        cfg = compose("model=super_resolution", f"guidance={guidance}", "sampler.clip=none", *SMALL)
        preflight(cfg)
        model, data = build_model(cfg), build_data(cfg)
        _, samples = one_step(model, data)
        small = functional.avg_pool2d(data.split("val")["x"][:4], 2)
        apart[guidance] = (functional.avg_pool2d(samples, 2) - small).abs().max()
    assert apart["replacement"] < 1e-5
    assert apart["none"] > 0.1


def test_a_regression_learns_at_t_1_and_takes_one_evaluation(compose):
    """Its validation is at the same time, so that the loss is the error of its samples."""
    cfg = compose("model=regression", "backbone.channels=8", "metrics=none", "logger=csv")
    preflight(cfg)
    model, data, indices = build_model(cfg).eval(), build_data(cfg), torch.arange(64)
    nonzero = torch.nn.init.normal_(model.denoiser.backbone.conv_out.weight, std=0.05)
    assert nonzero.any()
    batch = {**data.split("val")[indices], "position": indices}
    losses, t, weight = model.losses({**batch, "index": indices})
    assert torch.equal(t, torch.ones(64))
    assert torch.equal(weight, torch.ones(64))
    with counting(model.denoiser) as evaluations:
        samples = model.sample(indices, 0, model.request(indices, data.split("val"))[1])
    assert evaluations.rows == 64
    error = (samples - batch["x"]).square().mean()
    assert error == pytest.approx(losses.mean().item(), rel=0.02)  # of other noise at t = 1, which hardly matters
