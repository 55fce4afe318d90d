"""What every option of conf/backbone must satisfy."""

import re

import pytest
import torch
import yaml

from diffsweep.backbones import ClassifierBackbone
from diffsweep.configuration.build import build
from diffsweep.configuration.check import locate
from diffsweep.configuration.conf import CONF, options, parents, settings
from diffsweep.diffusion import Condition
from diffsweep.errors import UserError


def kind_of(option):
    """Return the class of an option."""
    while started := parents("backbone", option):
        option = started[0]
    return locate(yaml.safe_load((CONF / "backbone" / f"{option}.yaml").read_text())["_target_"])


# classifiers are tested in tests/backbones/test_encoder_unet.py
OPTIONS = [option for option in options("backbone") if not issubclass(kind_of(option), ClassifierBackbone)]
FAMILIES = [
    option for option in OPTIONS if not parents("backbone", option)
]  # published sizes differ from these only in their settings

families = pytest.mark.parametrize("option", FAMILIES)
FRAMES = 3


def shape_of(option, *sides):
    """Return the shape of a sample: an image, or a clip for networks of clips."""
    return (*sides[:-2], *([FRAMES] if "clips" in kind_of(option).supports else []), *sides[-2:])


NETWORKS = {"base_and_residual": ("base.", "residual.")}  # prefixes of the networks of options that consist of several


def space_of(option):
    shared = ["noise=shared"] if option in NETWORKS else []
    return [f"space.num_frames={FRAMES}", *shared] if "clips" in kind_of(option).supports else []


@pytest.fixture
def backbone(compose, option):
    narrow = [f"backbone.{part}channels=8" for part in NETWORKS.get(option, ("",))]
    return build(compose(f"backbone={option}", *narrow, *space_of(option)), "backbone")


@pytest.fixture
def inputs(compose, option):
    """Return two samples, the second without its condition, so that the null embeddings get gradients too."""
    tokens = torch.randn(2, 3, compose(f"backbone={option}").backbone.get("context_dim") or 1)
    cond = Condition(vector=torch.tensor([3, 0]), tokens=tokens, is_null=torch.tensor([False, True]))
    return torch.randn(2, *shape_of(option, 1, 8, 8)), torch.tensor([0.0, 500.0]), cond


def randomised(network):
    """Return the network with noise added to its weights, so that nothing is zero and no gradient negligible."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def unless_refused(network, x, c_noise):
    """Return the output, or None if the network refuses odd sizes in one line that names the key."""
    try:
        return network(x, c_noise, None)
    except ValueError as error:
        refused = str(error)
    assert x.shape[-2] % 2 or x.shape[-1] % 2
    assert re.fullmatch(r"backbone\.\w+=.*; use .*", refused)
    return None


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_works_for_some_size_and_refuses_others_in_one_line(compose, option):
    """Networks are built on the meta device, where a large network costs nothing."""
    cfg, refused = compose(f"backbone={option}", *space_of(option)).copy(), ""
    for size in (8, 32, 64, 256):
        cfg.space.update(channels=4, out_channels=8, image_size=size)
        with torch.device("meta"):
            try:
                network = build(cfg, "backbone")
            except UserError as error:
                refused = str(error)
            else:
                out = network(torch.empty(2, *shape_of(option, 4, size, size)), torch.empty(2), None)
                assert out.shape == (2, *shape_of(option, 8, size, size))
                return
        assert re.fullmatch(r"backbone\..*", refused)
    pytest.fail("refused at every size")


@families
def test_output_is_zero_at_initialisation(backbone, inputs):
    assert not backbone(*inputs).any()


@families
def test_every_parameter_gets_a_gradient(backbone, inputs):
    """Layers before a layer of zeros get gradients only after that layer has changed."""
    optimizer, target = torch.optim.Adam(backbone.parameters(), lr=1e-2), torch.randn_like(inputs[0])
    for _ in range(4):
        optimizer.zero_grad()
        (backbone(*inputs) - target).square().mean().backward()
        optimizer.step()
    untrained = [
        name for name, parameter in backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not untrained


@families
def test_time_reaches_the_output(backbone, inputs):
    network, (x, c_noise, cond) = randomised(backbone).double(), inputs
    outputs = network(x.double(), c_noise.double(), cond), network(x.double(), c_noise.double() + 300, cond)
    assert (outputs[0] - outputs[1]).abs().mean() > 1e-3 * outputs[0].abs().mean()


@families
def test_a_gradient_reaches_every_pixel_and_every_time(backbone, inputs):
    network, (x, c_noise, cond) = randomised(backbone), inputs
    x.requires_grad_(), c_noise.requires_grad_()
    network(x, c_noise, cond).square().sum().backward()
    assert (x.grad != 0).all()
    assert (c_noise.grad.abs() > 1e-9).all()


@families
@pytest.mark.parametrize("size", range(1, 10))
def test_any_size_of_image_works(backbone, option, size):
    """Sizes include odd ones and a single pixel, unless they are refused; samples of a batch are independent."""
    network = randomised(backbone).double().eval()
    x, c_noise = torch.randn(3, *shape_of(option, 1, size, size)).double(), torch.tensor([0.0, 40.0, 999.0]).double()
    whole = unless_refused(network, x, c_noise)
    if whole is None:
        return
    assert whole.shape == x.shape
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(network(x[1:2], c_noise[1:2], None), whole[1:2], rtol=0, atol=1e-9)


@families
@pytest.mark.parametrize("shape", [(3, 7), (8, 2), (1, 5)])
def test_images_need_not_be_square(backbone, option, shape):
    network = randomised(backbone)
    x = torch.randn(2, *shape_of(option, 1, *shape))
    out = unless_refused(network, x, torch.zeros(2))
    assert out is None or out.shape == x.shape


@pytest.mark.parametrize("option", [name for name in FAMILIES if "dropout" in settings("backbone", name)])
def test_evaluation_is_deterministic_with_dropout(compose, option, inputs):
    network = randomised(
        build(
            compose(f"backbone={option}", "backbone.channels=8", "backbone.dropout=0.5", *space_of(option)), "backbone"
        )
    )
    assert not torch.equal(network(*inputs), network(*inputs))
    network.eval()
    assert torch.equal(network(*inputs), network(*inputs))
