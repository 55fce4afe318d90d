"""Control images: their place in the condition of training and of requests, under guidance, and their agreement."""

from dataclasses import replace

import pytest
import torch

from diffsweep.backbones import UNet
from diffsweep.conditioning import ClassLabel, ControlImages
from diffsweep.datasets import Shapes
from diffsweep.degradations import Box, Downsampling, Greyscale, Segmentation
from diffsweep.diffusion import Eps, NetworkDenoiser, Noise
from diffsweep.guidance import ClassifierFreeGuidance
from diffsweep.layers import ControlBranch
from diffsweep.schedules import Cosine


@pytest.fixture(scope="module")
def samples():
    return Shapes(num_train=1, num_val=6).split("val")


def test_they_are_side_by_side_and_those_of_held_out_samples_in_turn(samples):
    grey, box = Greyscale(), Box()
    control = ControlImages([grey, box], 3, 16)
    assert control.sizes == [3, 4]
    indices = torch.tensor([1, 7])  # the second of six samples, twice
    request = control.request(indices, samples)["control"]
    assert request.shape == (2, 7, 16, 16)
    assert torch.equal(request[0], request[1])
    x, noise = samples[torch.tensor([1])]["x"], Noise(0, torch.tensor([1]))
    assert torch.equal(request[:1], torch.cat([grey.image(x), box.image(x, noise)], 1))
    assert torch.equal(control.prepared({"x": x, "index": torch.tensor([1])})["control"], request[:1])
    assert [part.shape[1] for part in control.pictures(request)] == [3, 3]
    both = ControlImages([grey], 3, 16).beside(ControlImages([box], 3, 16))
    assert torch.equal(both.request(indices, samples)["control"], request)
    assert control.request(indices, None) == {}


@pytest.mark.parametrize("negative", [None, 2])
@pytest.mark.parametrize("guess", [False, True])
def test_guidance_keeps_them_in_both_estimates_and_guess_mode_in_one(samples, negative, guess):
    """The guided estimate is that of two calls of the network by hand."""
    torch.manual_seed(0)
    network = UNet(3, 3, 16, channels=8, channel_mult=[1], attention_resolutions=[], num_classes=4)
    network.controls.append(ControlBranch(network.copied_half(), channels=3, weight=0.8))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    control = ControlImages([Segmentation()], 3, 16, guess)
    label = ClassLabel(4, ["a", "b", "c", "d"], negative=negative)
    indices = torch.arange(3)
    request = {**label.request(indices, samples), **control.request(indices, samples)}
    cond = control.condition(label(request), request)
    denoiser = NetworkDenoiser(network, Cosine(), Eps())
    x, t = torch.randn(3, 3, 16, 16), torch.tensor(0.5)
    guided = ClassifierFreeGuidance(denoiser, scale=3.0)(x, t, cond).eps

    away = label(request).null() if negative is None else label({"label": torch.full((3,), negative)})
    away = away if guess else replace(away, control=request["control"], kept=("control",))
    towards = denoiser(x, t, replace(label({"label": request["label"]}), control=request["control"])).eps
    torch.testing.assert_close(guided, torch.lerp(denoiser(x, t, away).eps, towards, 3.0), rtol=1e-4, atol=1e-4)
    without = denoiser(x, t, replace(away, control=None)).eps
    assert torch.allclose(denoiser(x, t, away).eps, without, atol=1e-4) == guess


def test_agreement_is_one_for_the_images_themselves_and_counts_pixels(samples):
    x = samples["x"]
    control = ControlImages([Segmentation(), Downsampling(2), Box()], 3, 16)
    wanted = control.of(x, Noise(0, torch.arange(6)))
    numbers = control.agreement(x, wanted)
    assert set(numbers) == {"control_iou", "control_2_error"}  # the place of a box is random
    assert numbers["control_iou"] == 1
    assert numbers["control_2_error"] < 1e-3
    moved = x.roll(1, 3)
    mask, shifted = ((Segmentation().image(part)[:, 0] > 0).double() for part in (x, moved))
    both = (mask * shifted).sum((1, 2))
    expected = (both / (mask.sum((1, 2)) + shifted.sum((1, 2)) - both)).mean().item()
    assert abs(control.agreement(moved, wanted)["control_iou"] - expected) < 1e-6
    flat = torch.zeros(6, 3, 16, 16)
    alone = ControlImages([Segmentation()], 3, 16)
    assert alone.agreement(flat, alone.of(flat))["control_iou"] == 1  # nothing requested, nothing drawn
    assert alone.agreement(flat, alone.of(x))["control_iou"] == 0


def test_images_that_cannot_be_degraded_are_refused():
    with pytest.raises(ValueError, match=r"degradation\.factor=3 does not divide the image's 16 pixels"):
        ControlImages([Downsampling(3)], 3, 16)
