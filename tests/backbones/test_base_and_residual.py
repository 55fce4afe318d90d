"""Two networks: what each sees, what becomes of what they say, and that the base is a network of images."""

import copy
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from options import option
from parts import parts_of
from torch import nn

from diffsweep.backbones import BaseAndResidual, UNet, UNet3D
from diffsweep.configuration.rules.network import images_beside_clips_have_noise_of_their_own
from diffsweep.configuration.rules.requirements import what_a_part_requires_is_provided
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
def test_output_is_the_sum_of_what_both_say(key_frame, frames):
    """Frame by frame, with the weights of the noise; of more frames than the network was trained on too."""
    network, (x, c_noise) = make(0.4, key_frame), inputs(frames)
    k = frames // 2
    base = network.base(x[:, :, k], c_noise)
    beside = torch.cat([x, base[:, :, None].expand(-1, -1, frames, -1, -1)], 1)
    residual = network.residual(beside, c_noise)
    out = network(x, c_noise)
    for i in range(frames):
        share = 1.0 if key_frame and i == k else 0.4
        torch.testing.assert_close(out[:, :, i], share**0.5 * base + (1 - share) ** 0.5 * residual[:, :, i])


def test_with_a_key_frame_an_image_network_is_the_base_as_it_is():
    """What is said of the middle frame, and of a clip of one frame, is what the network of images says."""
    network, (x, c_noise) = make(key_frame=True), inputs()
    images = copy.deepcopy(network.base)
    classes = Condition(vector=torch.tensor([[0, 1, 2, 0, 1], [1, 1, 0, 2, 2]]))
    expected = images(x[:, :, 2], c_noise, Condition(vector=torch.tensor([2, 0])))
    torch.testing.assert_close(network(x, c_noise, classes)[:, :, 2], expected, rtol=0, atol=1e-12)
    still = network(x[:, :, :1], c_noise, Condition(vector=torch.tensor([2, 0])))
    expected = images(x[:, :, 0], c_noise, Condition(vector=torch.tensor([2, 0])))
    torch.testing.assert_close(still[:, :, 0], expected, rtol=0, atol=1e-12)


def test_frames_may_have_times_of_their_own():
    network, (x, _) = make(key_frame=True), inputs()
    times = torch.tensor([[10.0, 200.0, 500.0, 700.0, 900.0], [0.0, 1.0, 2.0, 3.0, 4.0]]).double()
    expected = network.base(x[:, :, 2], times[:, 2])
    torch.testing.assert_close(network(x, times)[:, :, 2], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("key_frame", [False, True])
def test_one_loss_teaches_both(key_frame):
    """Every parameter of both networks has a gradient of the loss of the clip's noise, whose prediction falls along it."""
    network, schedule = make(key_frame=key_frame).float(), Cosine(100)
    denoiser = NetworkDenoiser(network, schedule, EpsPrediction(), network.noise)
    noise = Noise(0, torch.arange(2), clips=network.noise)
    eps = noise.like(x := torch.randn(2, 1, FRAMES, 8, 8), Stream.EPS)
    t, _ = Uniform()(schedule, noise.uniform(stream=Stream.TIME))
    cond = Condition(vector=torch.tensor([0, 2]), is_null=torch.tensor([False, True]))
    loss = lambda: Simple()(denoiser, x, cond, t, eps).mean()  # noqa: E731
    (before := loss()).backward()
    still = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert not still
    with torch.no_grad():
        for each in network.parameters():
            each -= 1e-4 * each.grad
    assert loss() < before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"noise": IndependentNoise()}, "use noise=shared"),
        ({"base": UNet3D(in_channels=1, **SMALL)}, "backbone.base is a network of clips"),
        (
            {"residual": lambda in_channels: UNet(in_channels=in_channels, **SMALL)},
            "backbone.residual is a network of images",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, told):
    parts = {"base": UNet(in_channels=1, **SMALL), "residual": lambda **sizes: UNet3D(**{**SMALL, **sizes})}
    with pytest.raises(ValueError, match=told):
        BaseAndResidual(**{**parts, "noise": SharedNoise(), "in_channels": 1, "out_channels": 1, **changes})


def test_images_beside_a_clip_are_refused():
    network, (x, c_noise) = make(), inputs()
    with pytest.raises(ValueError, match="images_per_clip=0"):
        network(x, c_noise, Condition(independent=torch.zeros(2, FRAMES, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("prediction", "images", "told"),
    [
        ("eps", 0, None),
        ("v", 0, "use prediction=eps"),
        ("score", 0, "use prediction=eps"),
        ("eps", 2, "images_per_clip=0"),
    ],
)
def test_the_output_is_noise_and_of_clips(prediction, images, told):
    choices = {"backbone": "base_and_residual", "prediction": prediction}
    cfg = OmegaConf.create({"choices": choices, "model": {"images_per_clip": images}})
    data = SimpleNamespace(provides={"clips"})
    parts = parts_of(backbone=make(), prediction=option("prediction", prediction), dataset=data)
    message = what_a_part_requires_is_provided(cfg, parts) or images_beside_clips_have_noise_of_their_own(cfg, parts)
    assert message is None if told is None else told in message
