"""Control networks: the controlled network is unchanged at first, and what they add is what their formula states."""

import copy
from dataclasses import replace

import pytest
import torch

from diffsweep.backbones import DiT, UNet, UViT
from diffsweep.diffusion import Condition
from diffsweep.layers import ControlBranch

SIZES = {"in_channels": 3, "out_channels": 3, "image_size": 8}
NETWORKS = {
    "unet": lambda: UNet(**SIZES, channels=8, channel_mult=[1, 2], attention_factors=[2], context_dim=6, num_heads=2),
    "unet_before": lambda: UNet(
        **SIZES, channels=8, channel_mult=[1, 1], resample_order="before", skip_scale=0.7, context_dim=6, num_heads=2,
        attention_factors=[2],
    ),
    "dit": lambda: DiT(**SIZES, channels=16, depth=3, num_heads=2, context_dim=6),
    "pixart": lambda: DiT(**SIZES, channels=16, depth=4, num_heads=2, block="adaln_single", context_dim=6),
    "in_context": lambda: DiT(**SIZES, channels=16, depth=2, num_heads=2, block="in_context", context_dim=6),
}  # fmt: skip
every = pytest.mark.parametrize("name", NETWORKS)


def made(name):
    """Return a network whose output layers are not zero, without gradients."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False).eval()


def controlled(network, **settings):
    """Return a copy of a network with a control network."""
    network = copy.deepcopy(network)
    network.controls.append(ControlBranch(network.copied_half(), channels=1, **settings))
    return network.eval()


def trained(branch):
    """Fill in the layers that are zero at first."""
    for layer in (*branch.zero, branch.hint[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return branch


def inputs(count=3, side=8):
    torch.manual_seed(1)
    cond = Condition(tokens=torch.randn(count, 4, 6), control=torch.rand(count, 1, side, side) * 2 - 1)
    return torch.randn(count, 3, side, side), torch.tensor([10.0, 400.0, 900.0])[:count], cond


@every
def test_at_first_and_at_weight_0_the_network_is_unchanged_to_the_bit(name):
    network, given = made(name), inputs()
    first, other = controlled(network), controlled(network, weight=0.0)
    trained(other.controls[0])
    assert torch.equal(first(*given), network(*given))
    assert torch.equal(other(*given), network(*given))
    trained(first.controls[0])
    assert not torch.allclose(first(*given), network(*given), atol=1e-3)
    x, c_noise, cond = given
    assert torch.equal(first(x, c_noise, replace(cond, control=None)), network(*given))


@every
def test_a_zero_layer_learns_from_the_start_and_hides_what_is_below_it(name):
    """dL/dW = (dL/dy) h^T, summed over positions, with h the copy's feature, and dL/dh = W^T dL/dy = 0."""
    network, given = controlled(made(name)), inputs()
    branch, seen = network.controls[0], {}
    for number, zero in enumerate(branch.zero):

        def keep(module, arguments, output, number=number):
            seen[number] = arguments[0], output
            arguments[0].retain_grad()
            output.retain_grad()

        zero.register_forward_hook(keep)
    (network(*given) ** 2).sum().backward()
    for number, zero in enumerate(branch.zero):
        h, y = seen[number]
        assert not y.any()
        pair = (y.grad, h.detach()) if h.ndim == 3 else (part.flatten(2).mT for part in (y.grad, h.detach()))
        expected = torch.einsum("bno,bni->oi", *pair)
        torch.testing.assert_close(zero.weight.grad.flatten(1), expected, rtol=1e-4, atol=1e-4)
        assert zero.weight.grad.any()
        assert not h.grad.any()
    inner = [*branch.copy.parameters(), *branch.hint.parameters()]
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in inner)


@every
def test_after_two_steps_every_part_of_the_control_network_learns(name):
    network, given = controlled(made(name)), inputs()
    branch = network.controls[0]
    optimizer = torch.optim.SGD([part for part in network.parameters() if part.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (network(*given) ** 2).mean().backward()
        optimizer.step()
    still = [name for name, part in branch.named_parameters() if part.grad is None or not part.grad.any()]
    assert all("null" in part or "to_q" in part or "q_norm" in part for part in still), still
    assert all(parameter.grad is None for key, parameter in network.named_parameters() if "controls" not in key)


@every
def test_a_copy_that_takes_all_features_away_leaves_nothing_of_x(name):
    """With W = -1 and no hint each feature f_i is cancelled, since the copy of the first half makes the same."""
    network = made(name)
    if name not in ("unet", "unet_before"):  # of a transformer the last block's feature is all that goes on
        network.blocks = network.blocks[:2]
        taken = copy.deepcopy(network)
        taken.controls.append(ControlBranch(taken.copied_half(2), channels=1))
    else:
        taken = controlled(network)
    branch = taken.controls[0]
    zeros = branch.zero if name.startswith("unet") else [branch.zero[-1]]
    for zero in zeros:
        torch.nn.init.zeros_(zero.weight)
        zero.weight.data.flatten(1).copy_(-torch.eye(zero.weight.shape[0]))
    x, c_noise, cond = inputs()
    network, taken, x = network.double(), taken.double(), x.double()  # norms of rounding errors would be large
    a, b = taken(x, c_noise, cond), taken(x.flip(0), c_noise, cond)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert not torch.allclose(network(x, c_noise, cond), network(x.flip(0), c_noise, cond), atol=1e-2)


def test_times_rows_and_several_control_networks():
    network, (x, c_noise, cond) = made("unet"), inputs()
    base, full = network(x, c_noise, cond), controlled(network)
    trained(full.controls[0])
    steered = full(x, c_noise, cond)
    part = controlled(network, interval=lambda: (100.0, 500.0))
    part.load_state_dict(full.state_dict())
    torch.testing.assert_close(part(x, c_noise, cond)[1], steered[1])
    torch.testing.assert_close(part(x, c_noise, cond)[[0, 2]], base[[0, 2]])
    assert torch.equal(part(x, torch.full((3,), 50.0), cond), network(x, torch.full((3,), 50.0), cond))
    assert torch.equal(part.train()(x, c_noise, cond), steered)  # training is at all times
    rows = full(x, c_noise, replace(cond, control_weight=torch.tensor([1.0, 0.0, 1.0])))
    torch.testing.assert_close(rows[[0, 2]], steered[[0, 2]])
    torch.testing.assert_close(rows[1], base[1])
    halves = copy.deepcopy(full)
    halves.controls[0].weight = 0.25
    halves.controls.append(copy.deepcopy(halves.controls[0]))
    halves.controls[1].weight, halves.controls[1].first = 0.75, 1
    both = replace(cond, control=torch.cat([cond.control, cond.control], 1))
    torch.testing.assert_close(halves(x, c_noise, both), steered, rtol=1e-4, atol=1e-5)


def test_guess_mode_weighs_features_from_a_tenth_to_one():
    network = controlled(made("unet"), guess=True)
    levels = torch.tensor(network.controls[0].levels)
    assert abs(levels[0] - 0.1) < 1e-6
    assert levels[-1] == 1
    torch.testing.assert_close(levels.log().diff(), levels.log().diff()[:1].expand(len(levels) - 1))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6])
def test_every_pixel_of_a_control_image_reaches_the_hint(factor):
    branch = ControlBranch(made("unet").copied_half(), channels=2, factor=factor)
    torch.nn.init.normal_(branch.hint[-1].weight)
    image = torch.randn(1, 2, 4 * factor, 4 * factor, requires_grad=True)
    hint = branch.hint(image)
    assert hint.shape == (1, 8, 4, 4)
    hint.square().sum().backward()
    assert image.grad.abs().sum(1).gt(0).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: UViT(**SIZES, channels=8, num_heads=2).copied_half(),
            "UViT has no first half that can be copied; use",
        ),
        (lambda: made("unet").copied_half(2), "a U-Net is copied as far as its middle"),
        (lambda: made("dit").copied_half(4), "4 blocks are to be copied, and the network has 3"),
        (
            lambda: controlled(made("dit"))(*inputs()[:2], inputs(side=16)[2]),
            "the control images have 16 x 16 pixels, and images of 8 x 8 are drawn",
        ),
        (lambda: controlled(made("dit"), first=1)(*inputs()), "have 1 channels, and this control network reads 1 from"),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
