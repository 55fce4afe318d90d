"""The U-Net: what it must do at initialisation, at odd sizes, with time, and that it can learn."""

import pytest
import torch

from diffsweep.backbones import UNet
from diffsweep.backbones.unet import ResidualBlock
from diffsweep.datasets import load_digits
from diffsweep.diffusion import Eps, NetworkDenoiser, Noise, Simple, Stream
from diffsweep.schedules import Cosine


def trained_like(network):
    """The network with random weights in place of its zeros."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"attention_resolutions": [5]}, r"backbone.attention_resolutions has \[5\].* are \[8, 4\]"),
        (
            {"image_size": 4, "attention_resolutions": [], "channel_mult": [1, 2, 2, 2]},
            "down to 1 pixel after 3; use fewer",
        ),
        ({"channels": 8, "num_heads": 3}, "channels cannot be split into 3"),
        ({"channels": 9, "num_heads": 1}, r"even.*, not 9"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(bad, match):
    with pytest.raises(ValueError, match=match):
        UNet(**{"in_channels": 1, "out_channels": 1, "image_size": 8, **bad})


@pytest.mark.parametrize("size", range(1, 10))
def test_it_can_be_built_for_small_and_odd_sizes(size):
    """With every level that the size allows, and attention in all of them; the output has the size of the input."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    network = trained_like(UNet(2, 3, size, channels=8, channel_mult=[1] * len(sizes), attention_resolutions=sizes))
    out = network(torch.randn(2, 2, size, size), torch.zeros(2))
    assert out.shape == (2, 3, size, size)
    assert torch.isfinite(out).all()


def test_blocks_are_the_identity_at_initialisation():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 16, 0.0)(x, torch.randn(2, 16)), x)


@pytest.mark.parametrize("channels", [8, 16, 32, 64, 128])
def test_time_reaches_every_block(channels):
    """A shift of whole channels before a norm is lost where each group of the norm is one channel."""
    block = trained_like(ResidualBlock(channels, channels, 16, 0.0))
    x = torch.randn(1, channels, 8, 8)
    early, late = block(x, torch.randn(1, 16)), block(x, torch.randn(1, 16))
    assert (early - late).abs().mean() > 1e-2 * early.abs().mean()


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_time_changes_the_output(channels):
    network = trained_like(UNet(1, 1, 8, channels=channels))
    x = torch.randn(1, 1, 8, 8)
    early, late = network(x, torch.tensor([0.0])), network(x, torch.tensor([900.0]))
    assert (early - late).abs().mean() > 1e-3 * early.abs().mean()


def test_a_block_is_the_written_out_formula():
    """skip(x) + conv(silu(norm(conv(silu(norm(x))) + W emb)))."""
    functional = torch.nn.functional
    block, x, emb = (
        trained_like(ResidualBlock(48, 96, 16, 0.0)).double(),
        torch.randn(2, 48, 5, 5).double(),
        torch.randn(2, 16).double(),
    )

    def norm(h, layer):
        grouped = h.reshape(len(h), layer.num_groups, -1)
        variance, mean = torch.var_mean(grouped, 2, unbiased=False, keepdim=True)
        h = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        return h * layer.weight[:, None, None] + layer.bias[:, None, None]

    def silu(h):
        return h / (1 + torch.exp(-h))

    h = functional.conv2d(silu(norm(x, block.norm_in)), block.conv_in.weight, block.conv_in.bias, padding=1)
    h = h + (emb @ block.embed.weight.T + block.embed.bias)[:, :, None, None]
    h = functional.conv2d(silu(norm(h, block.norm_out)), block.conv_out.weight, block.conv_out.bias, padding=1)
    expected = functional.conv2d(x, block.skip.weight, block.skip.bias) + h
    torch.testing.assert_close(block(x, emb), expected)


def test_the_way_up_sees_every_stage_of_the_way_down():
    """Each stage up gets, behind what comes from below, what the way down left: the last first."""
    network, left, given = trained_like(UNet(1, 1, 8, channels=8, num_res_blocks=2)), [], []
    for module in (network.conv_in, *network.down):
        module.register_forward_hook(lambda module, arguments, output: left.append(output))
    for module in network.up:
        if not isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    network(torch.randn(2, 1, 8, 8), torch.tensor([5.0, 500.0]))
    assert len(left) == len(given) == 6
    for skip, h in zip(reversed(left), given, strict=True):
        assert torch.equal(h[:, -skip.shape[1] :], skip)


def test_rows_do_not_see_each_other():
    network = trained_like(UNet(1, 1, 8, channels=16)).double().eval()
    x, c_noise = torch.randn(4, 1, 8, 8).double(), torch.tensor([0.0, 10.0, 500.0, 999.0]).double()
    whole = network(x, c_noise)
    for row in range(4):
        torch.testing.assert_close(
            network(x[row : row + 1], c_noise[row : row + 1]), whole[row : row + 1], rtol=0, atol=1e-10
        )


def test_attention_makes_distant_pixels_matter_and_convolutions_alone_do_not():
    """At 32 pixels with one level and one block the corner's reach is local without attention."""
    x = torch.zeros(1, 1, 32, 32).double().requires_grad_()
    for resolutions, reaches in (([], False), ([32], True)):
        network = trained_like(
            UNet(1, 1, 32, channels=64, channel_mult=[1], num_res_blocks=1, attention_resolutions=resolutions)
        )
        network = network.double()
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):  # norms see the whole image: take them out
                module.forward = lambda h: h
        (gradient,) = torch.autograd.grad(network(x + 0.1, torch.tensor([5.0]).double())[0, 0, 0, 0], x)
        assert bool(gradient[0, 0, -1, -1] != 0) == reaches


def test_it_overfits_sixteen_digits():
    """The loss at fixed (t, eps) falls below a twentieth of where it starts, within 300 steps."""
    x_0 = load_digits("train")["x"][:16]
    network = UNet(1, 1, 8, channels=32, num_res_blocks=1)
    denoiser, objective = NetworkDenoiser(network, Cosine(1000), Eps()), Simple("l2")
    t, eps = torch.linspace(0.1, 1, 16), Noise(0, torch.arange(16)).like(x_0, Stream.EPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    first = None
    for _ in range(300):
        loss = objective(denoiser, x_0, None, t, eps).mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < first / 20:
            break
    assert first == pytest.approx(float(eps.square().mean()), rel=1e-5)  # the output is 0 at first
    assert loss < first / 20
