"""What every option of conf/backbone promises."""

from pathlib import Path

import pytest
import torch

from diffsweep.diffusion import Condition
from diffsweep.runs.build import build

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/backbone").glob("*.yaml"))

pytestmark = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def backbone(compose, small, option):
    return build(compose(f"backbone={option}", *small(option)), "backbone")


@pytest.fixture
def inputs(compose, option):
    """Two samples, the second without its condition, so that what a backbone learns of either gets a gradient."""
    tokens = torch.randn(2, 3, compose(f"backbone={option}").backbone.get("context_dim") or 1)
    cond = Condition(vector=torch.tensor([3, 0]), tokens=tokens, is_null=torch.tensor([False, True]))
    return torch.randn(2, 1, 8, 8), torch.tensor([0.0, 500.0]), cond


def randomised(network):
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_output_is_zero_at_initialisation(backbone, inputs):
    assert not backbone(*inputs).any()


def test_every_parameter_gets_a_gradient(backbone, inputs):
    """Not at first: what is behind a layer of zeros waits until that layer has moved."""
    optimizer, target = torch.optim.Adam(backbone.parameters(), lr=1e-2), torch.randn(2, 1, 8, 8)
    for _ in range(4):
        optimizer.zero_grad()
        (backbone(*inputs) - target).square().mean().backward()
        optimizer.step()
    still = [
        name for name, parameter in backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not still


def test_time_reaches_the_output(backbone, inputs):
    network, (x, c_noise, cond) = randomised(backbone).double(), inputs
    outputs = network(x.double(), c_noise.double(), cond), network(x.double(), c_noise.double() + 300, cond)
    assert (outputs[0] - outputs[1]).abs().mean() > 1e-3 * outputs[0].abs().mean()


def test_a_gradient_reaches_every_pixel_and_every_time(backbone, inputs):
    network, (x, c_noise, cond) = randomised(backbone), inputs
    x.requires_grad_(), c_noise.requires_grad_()
    network(x, c_noise, cond).square().sum().backward()
    assert (x.grad != 0).all()
    assert (c_noise.grad.abs() > 1e-9).all()


@pytest.mark.parametrize("size", range(1, 10))
def test_any_size_of_picture_works(backbone, size):
    """Also odd ones and one pixel; a row does not depend on the others."""
    network = randomised(backbone).double().eval()
    x, c_noise = torch.randn(3, 1, size, size).double(), torch.tensor([0.0, 40.0, 999.0]).double()
    whole = network(x, c_noise, None)
    assert whole.shape == x.shape
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(network(x[1:2], c_noise[1:2], None), whole[1:2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 7), (8, 2), (1, 5)])
def test_pictures_need_not_be_square(backbone, shape):
    network = randomised(backbone)
    x = torch.randn(2, 1, *shape)
    assert network(x, torch.zeros(2), None).shape == x.shape


def test_evaluation_is_deterministic_with_dropout(compose, small, option, inputs):
    network = randomised(build(compose(f"backbone={option}", *small(option), "backbone.dropout=0.5"), "backbone"))
    assert not torch.equal(network(*inputs), network(*inputs))
    network.eval()
    assert torch.equal(network(*inputs), network(*inputs))
