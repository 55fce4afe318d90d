"""Video diffusion models: images appended to clips, times of frames, and noise that frames share."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from parts import parts_of

from diffsweep.autoencoders import Identity
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.rules.noise import model_supports_shared_noise
from diffsweep.configuration.rules.requirements import required_capabilities_are_provided as unprovided
from diffsweep.diffusion import (
    DSM,
    INDEPENDENT,
    SSM,
    VLB,
    Condition,
    Hybrid,
    Noise,
    ProgressiveNoise,
    SharedNoise,
    Simple,
    Stream,
    Uniform,
)
from diffsweep.errors import UserError
from diffsweep.metrics import BoundLikelihood
from diffsweep.models import DiffusionModel

SMALL = ("backbone.channels=8", "dataset.num_train=64", "dataset.num_val=8", "dataset.num_frames=4", "metrics=none")


def make(compose, *overrides):
    model = build_model(compose("model=video", *SMALL, *overrides)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batch_of(compose, count=5):
    index = torch.arange(count)
    return {**build_data(compose("model=video", *SMALL)).split("train")[index], "position": index}


def test_appended_images_are_frames_of_other_clips_with_their_classes(compose):
    model, batch = make(compose, "model.images_per_clip=3", "conditioning=class"), batch_of(compose)
    clips, noise = batch["x"], Noise(0, batch["position"])
    x, cond = model.with_images(clips, Condition(vector=batch["label"]), noise)
    assert torch.equal(x[:, :, :4], clips)
    for clip in range(5):
        for image in range(3):
            source = (clip + image + 1) % 5
            assert any(torch.equal(x[clip, :, 4 + image], frame) for frame in clips[source].unbind(1))
            assert cond.vector[clip, 4 + image] == batch["label"][source]
        assert cond.vector[clip, :4].tolist() == [batch["label"][clip]] * 4
    assert cond.independent.tolist() == [[False] * 4 + [True] * 3] * 5


def test_an_appended_image_depends_on_no_other_frame_and_no_frame_on_it(compose):
    """Gradients of the prediction of one frame with respect to the other frames of x_t are exactly 0."""
    model, batch = make(compose, "model.images_per_clip=2"), batch_of(compose, 3)
    x, cond = model.with_images(batch["x"], None, Noise(0, batch["position"]))
    x_t = x.clone().requires_grad_()
    predicted = model.denoiser(x_t, torch.full((3, 6), 0.5), cond).x0
    for frame in range(6):
        (gradient,) = torch.autograd.grad(predicted[:, :, frame].square().sum(), x_t, retain_graph=True)
        sources = {other for other in range(6) if gradient[:, :, other].any()}
        assert sources == ({0, 1, 2, 3} if frame < 4 else {frame})


def test_frames_have_one_time_per_clip_and_image_or_one_each(compose):
    """``images_per_clip`` draws one time for a clip and one for each image, ``time_per_frame`` one for each frame."""
    batch = batch_of(compose)
    for options, same in ((("model.images_per_clip=2",), True), (("model.time_per_frame=true",), False)):
        model, kept = make(compose, *options), []
        objective = model.objective
        model.objective = lambda denoiser, x_0, cond, t, eps, noise, plain=objective, kept=kept: (
            kept.append(t) or plain(denoiser, x_0, cond, t, eps, noise)
        )
        losses, t, weight = model.losses(batch)
        (times,) = kept
        assert losses.shape == t.shape == weight.shape == (5,)
        assert torch.equal(t, times[:, 0])
        assert torch.equal(times[:, :4], times[:, :1].expand(-1, 4)) == same
        assert len(times.unique()) > (12 if same else 16)  # of 15 and 20, drawn from a grid of 1000


def test_without_images_and_times_of_frames_the_step_is_that_of_a_diffusion_model(compose):
    model, batch = make(compose), batch_of(compose)
    ours, theirs = model.losses(batch), DiffusionModel.losses(model, batch)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def eps_of(model, batch):
    """Return the noise that a training step passes to its objective."""
    kept, objective = [], model.objective
    model.objective = lambda *arguments: kept.append(arguments[4]) or objective(*arguments)
    model.losses(batch)
    model.objective = objective
    return kept[0]


def test_frames_share_the_noise_of_every_draw_and_images_have_their_own(compose):
    """The noise of training and of a sampler's start and steps is that of the plain model, coloured by the covariance.

    The noise of images appended to a clip stays as it is, and longer clips share theirs too.
    """
    plain, ours = make(compose), make(compose, "noise=shared", "noise.share=0.3")
    batch, law, index = batch_of(compose), SharedNoise(0.3), torch.arange(3)
    assert torch.equal(eps_of(ours, batch), law.colour(eps_of(plain, batch)))
    appended = "model.images_per_clip=2"
    without, eps = (
        eps_of(make(compose, appended, *shared), batch) for shared in ((), ("noise=shared", "noise.share=0.3"))
    )
    assert torch.equal(eps[:, :, :4], law.colour(without[:, :, :4]))
    assert torch.equal(eps[:, :, 4:], without[:, :, 4:])
    for frames in (4, 10):
        for model in (plain, ours):
            model.autoencoder.lengthen(frames)
        (white, _), (x, noise) = plain.start(index, 5), ours.start(index, 5)
        assert x.shape[2] == frames
        torch.testing.assert_close(x, law.colour(white))
        assert torch.equal(noise.at(2).like(x), law.colour(Noise(5, index, 2).like(x)))


def test_held_out_clips_have_noise_of_the_covariance_of_training(compose):
    model, batch = make(compose, "noise=progressive"), batch_of(compose)
    kept, batch["index"] = [], torch.arange(5)
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(num_val=8))
    model.log_validation = model.log_mean = lambda *_, **__: None
    model.objective = lambda denoiser, x_0, cond, t, eps, noise: kept.append(eps)
    model.validation_step(batch, 0)
    white = Noise(0, batch["index"]).like(batch["x"], Stream.VALIDATION)
    assert torch.equal(kept[0], model.denoiser.noise.colour(white))
    assert not torch.equal(kept[0], white)


def test_parts_that_need_independent_noise_refuse_shared_noise():
    """Images, models without diffusion, likelihoods, bounds and scores refuse it; all take independent noise."""
    cfg = OmegaConf.create({"choices": dict.fromkeys(("noise", "model"), "chosen"), "model": {"noise": {}}})
    without = OmegaConf.merge(cfg, {"model": {"noise": None}})
    images, clips = (Identity(1, 8, num_frames=frames) for frames in (None, 4))
    schedule = SimpleNamespace(provides={"grid", "rate"})  # an objective may require either
    wrong = [VLB(), Hybrid(), SSM(), DSM("likelihood")]
    for noise in (SharedNoise(), ProgressiveNoise(), INDEPENDENT):
        of_clips = parts_of(
            noise=noise, autoencoder=clips, time_sampling=Uniform(), schedule=schedule, model=DiffusionModel
        )
        refusals = [
            unprovided(cfg, replace(of_clips, autoencoder=images)),
            unprovided(cfg, replace(of_clips, likelihood=BoundLikelihood())),
            model_supports_shared_noise(without, of_clips),
            *(unprovided(cfg, replace(of_clips, objective=objective)) for objective in wrong),
        ]
        assert all(message is None if noise is INDEPENDENT else "noise" in message for message in refusals)
        assert all(message is None or "; use " in message for message in refusals)
        for objective in (Simple(), DSM()):
            assert unprovided(cfg, replace(of_clips, objective=objective)) is None
        assert model_supports_shared_noise(cfg, of_clips) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.images_per_clip=-1",), "images_per_clip must be at least 0"),
        (("model.images_per_clip=2", "conditioning=class_scalars", "dataset=shapes", "backbone=unet"), "of their own"),
        (("model.time_per_frame=true", "time_sampling=importance"), "times that adapt to losses"),
    ],
)
def test_wrong_settings_are_refused(compose, overrides, message):
    small = SMALL if "dataset=shapes" not in overrides else SMALL[:1]
    with pytest.raises(UserError, match=message):
        build_model(compose("model=video", *small, *overrides))
