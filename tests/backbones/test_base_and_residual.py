"""BaseAndResidual: the inputs of both networks, the sum of their outputs, and the base as an image network."""

import copy
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from options import option
from parts import parts_of
from torch import nn

from diffsweep.backbones import BaseAndResidual, UNet, UNet3D
from diffsweep.configuration.rules.network import images_per_clip_have_unsplit_noise
from diffsweep.configuration.rules.requirements import required_capabilities_are_provided
from diffsweep.diffusion import (
    Condition,
    IndependentNoise,
    NetworkDenoiser,
    Noise,
    SharedNoise,
    Simple,
    Stream,
    Uniform,
)
from diffsweep.diffusion import Eps as EpsPrediction
from diffsweep.schedules import Cosine

FRAMES, SMALL = 5, {"out_channels": 1, "image_size": 8, "channels": 8, "channel_mult": (1,), "num_res_blocks": 1}
SMALL |= {"attention_resolutions": (8,), "num_classes": 3}


def make(share=0.4, key_frame=False):
    network = BaseAndResidual(
        UNet(in_channels=1, **SMALL),
        lambda **sizes: UNet3D(num_frames=FRAMES, **{**SMALL, **sizes}),
        SharedNoise(share, key_frame),
        in_channels=1,
        out_channels=1,
    )
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.double()


def inputs(frames=FRAMES):
    return torch.randn(2, 1, frames, 8, 8).double(), torch.tensor([100.0, 700.0]).double()


@pytest.mark.parametrize("key_frame", [False, True])
@pytest.mark.parametrize("frames", [1, 4, FRAMES, 9])
def test_output_is_the_weighted_sum_of_base_and_residual(key_frame, frames):
    """Each frame is weighted by the noise, also in clips longer than those of training."""
    network, (x, c_noise) = make(0.4, key_frame), inputs(frames)
    k = frames // 2
    base = network.base(x[:, :, k], c_noise)
    beside = torch.cat([x, base[:, :, None].expand(-1, -1, frames, -1, -1)], 1)
    residual = network.residual(beside, c_noise)
    out = network(x, c_noise)
    for i in range(frames):
        share = 1.0 if key_frame and i == k else 0.4
        torch.testing.assert_close(out[:, :, i], share**0.5 * base + (1 - share) ** 0.5 * residual[:, :, i])


def test_with_a_key_frame_a_network_of_images_is_the_base_unchanged():
    """The prediction for the middle frame, and for a clip of one frame, is that of the network of images."""
    network, (x, c_noise) = make(key_frame=True), inputs()
    images = copy.deepcopy(network.base)
    classes = Condition(vector=torch.tensor([[0, 1, 2, 0, 1], [1, 1, 0, 2, 2]]))
    expected = images(x[:, :, 2], c_noise, Condition(vector=torch.tensor([2, 0])))
    torch.testing.assert_close(network(x, c_noise, classes)[:, :, 2], expected, rtol=0, atol=1e-12)
    single = network(x[:, :, :1], c_noise, Condition(vector=torch.tensor([2, 0])))
    expected = images(x[:, :, 0], c_noise, Condition(vector=torch.tensor([2, 0])))
    torch.testing.assert_close(single[:, :, 0], expected, rtol=0, atol=1e-12)


def test_frames_may_have_different_times():
    network, (x, _) = make(key_frame=True), inputs()
    times = torch.tensor([[10.0, 200.0, 500.0, 700.0, 900.0], [0.0, 1.0, 2.0, 3.0, 4.0]]).double()
    expected = network.base(x[:, :, 2], times[:, 2])
    torch.testing.assert_close(network(x, times)[:, :, 2], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("key_frame", [False, True])
def test_one_loss_trains_both_networks(key_frame):
    """The loss of the clip's noise has a gradient for every parameter, and decreases along it."""
    network, schedule = make(key_frame=key_frame).float(), Cosine(100)
    denoiser = NetworkDenoiser(network, schedule, EpsPrediction(), network.noise)
    noise = Noise(0, torch.arange(2), clips=network.noise)
    eps = noise.like(x := torch.randn(2, 1, FRAMES, 8, 8), Stream.EPS)
    t, _ = Uniform()(schedule, noise.uniform(stream=Stream.TIME))
    cond = Condition(vector=torch.tensor([0, 2]), is_null=torch.tensor([False, True]))
    loss = lambda: Simple()(denoiser, x, cond, t, eps).mean()  # noqa: E731
    (before := loss()).backward()
    untrained = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert not untrained
    with torch.no_grad():
        for each in network.parameters():
            each -= 1e-4 * each.grad
    assert loss() < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": IndependentNoise()}, "use noise=shared"),
        ({"base": UNet3D(in_channels=1, **SMALL)}, "backbone.base is a network of clips"),
        (
            {"residual": lambda in_channels: UNet(in_channels=in_channels, **SMALL)},
            "backbone.residual is a network of images",
        ),
    ],
)
def test_impossible_parts_are_refused_with_what_to_use(changes, message):
    parts = {"base": UNet(in_channels=1, **SMALL), "residual": lambda **sizes: UNet3D(**{**SMALL, **sizes})}
    with pytest.raises(ValueError, match=message):
        BaseAndResidual(**{**parts, "noise": SharedNoise(), "in_channels": 1, "out_channels": 1, **changes})


def test_images_beside_a_clip_are_refused():
    network, (x, c_noise) = make(), inputs()
    with pytest.raises(ValueError, match="images_per_clip=0"):
        network(x, c_noise, Condition(independent=torch.zeros(2, FRAMES, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("prediction", "images", "expected"),
    [
        ("eps", 0, None),
        ("v", 0, "use prediction=eps"),
        ("score", 0, "use prediction=eps"),
        ("eps", 2, "images_per_clip=0"),
    ],
)
def test_it_requires_prediction_eps_and_clips_without_images(prediction, images, expected):
    choices = {"backbone": "base_and_residual", "prediction": prediction}
    cfg = OmegaConf.create({"choices": choices, "model": {"images_per_clip": images}})
    data = SimpleNamespace(provides={"clips"})
    parts = parts_of(backbone=make(), prediction=option("prediction", prediction), dataset=data)
    message = required_capabilities_are_provided(cfg, parts) or images_per_clip_have_unsplit_noise(cfg, parts)
    assert message is None if expected is None else expected in message
