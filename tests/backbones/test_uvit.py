"""U-ViT: published sizes, the written-out formula, long skip connections and learned positions."""

import pytest
import torch
from networks import (
    assert_computing_blocks_again_changes_no_gradient,
    assert_every_parameter_learns,
    assert_it_compiles_as_one_graph,
)
from slower import some
from torch.nn import functional

from diffsweep.backbones import UViT
from diffsweep.configuration.build import build
from diffsweep.diffusion import Condition
from diffsweep.layers import SinusoidalEmbedding

VARIANTS = [{}, *({switch: True} for switch in ("qk_norm", "rope", "swiglu", "rms_norm"))]
NAME = lambda variant: next(iter(variant), "plain")  # noqa: E731
variants = pytest.mark.parametrize("variant", VARIANTS, ids=NAME)


def small(**settings):
    """Return a tiny network with classes, with random weights in place of zeros."""
    network = UViT(2, 4, 8, **{"channels": 16, "depth": 5, "num_heads": 2, "num_classes": 3, **settings})
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def inputs(size=8):
    return torch.randn(2, 2, size, size), torch.tensor([3.0, 700.0]), Condition(vector=torch.tensor([2, 0]))


def expected_count(patch, width, depth, channels, size, classes, conv):
    """Return the count of parameters: 12 C^2 + 10 C in a block, and 2 C^2 + C more in one with a skip connection."""
    tokens = (size // patch) ** 2 + (2 if classes else 1)
    blocks = depth * (12 * width**2 + 10 * width) + depth // 2 * (2 * width**2 + width)
    ends = 2 * patch**2 * channels * width + width + patch**2 * channels + 2 * width
    return blocks + ends + tokens * width + classes * width + conv * (9 * channels**2 + channels)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "millions", "rest"),
    [  # arXiv:2209.12152, Table 1, and the configurations of the authors; depth counts the middle block
        ("s_2", (3, 32), 0, 44, (2, 512, 13)),
        ("s_deep_2", (4, 32), 0, 58, (2, 512, 17)),
        ("m_2", (4, 32), 1000, 131, (2, 768, 17)),
        ("m_4", (3, 64), 1000, 131, (4, 768, 17)),
        ("l_2", (4, 32), 1000, 287, (2, 1024, 21)),
        ("h_2", (4, 32), 1000, 501, (2, 1152, 29)),
    ],
)
def test_a_published_size_has_the_published_parameters(compose, name, shape, classes, millions, rest):
    channels, size = shape
    space = (f"space.channels={channels}", f"space.out_channels={channels}", f"space.image_size={size}")
    cfg = compose(f"backbone=uvit_{name}", f"backbone.num_classes={classes or 'null'}", *space)
    with torch.device("meta"):
        network = build(cfg, "backbone")
        assert network(torch.empty(1, channels, size, size), torch.empty(1)).shape == (1, channels, size, size)
    count = sum(parameter.numel() for parameter in network.parameters())
    rows = classes + 1 if classes else 0
    assert count == expected_count(*rest, channels, size, rows, conv=name != "h_2")
    assert round(count / 1e6) == millions


@pytest.mark.parametrize("num_classes", [None, 3])
def test_it_is_the_written_out_formula(num_classes):
    network, (x, c_noise, cond) = small(num_classes=num_classes).double(), inputs()
    x, c_noise = x.double(), c_noise.double()

    def block(h, layer):
        shape = (2, h.shape[1], 2, 8)  # (B, N, heads, D)
        n = functional.layer_norm(h, (16,), layer.norm_attention.weight, layer.norm_attention.bias)
        q, k, v = (n @ w.T for w in layer.attention.to_qkv.weight.chunk(3))  # without biases
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in (q, k, v))
        attended = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
        h = h + layer.attention.to_out(attended.transpose(1, 2).reshape(h.shape))
        n = functional.layer_norm(h, (16,), layer.norm_mlp.weight, layer.norm_mlp.bias)
        n = layer.mlp[0](n)
        return h + layer.mlp[2](n * (1 + torch.erf(n / 2**0.5)) / 2)

    weight = network.embed_patches.weight.reshape(16, 2, 2, 2)
    patches = functional.conv2d(x, weight, network.embed_patches.bias, stride=2).flatten(2).mT
    tokens = [SinusoidalEmbedding(16)(c_noise)[:, None], patches]
    if num_classes is not None:
        tokens.insert(0, network.embed_condition.classes.weight[cond.vector][:, None])
    h = torch.cat(tokens, dim=1) + network.positions
    first = h = block(h, network.early[0])
    second = h = block(h, network.early[1])
    h = block(h, network.middle)
    h = block(network.late[0].merge(torch.cat([h, second], dim=2)), network.late[0])
    h = block(network.late[1].merge(torch.cat([h, first], dim=2)), network.late[1])
    h = network.head(network.norm_out(h))[:, -16:]
    image = h.reshape(2, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(2, 4, 8, 8)
    expected = functional.conv2d(image, network.conv_out.weight, network.conv_out.bias, padding=1)
    torch.testing.assert_close(network(x, c_noise, cond), expected)


@pytest.mark.parametrize("conv", [True, False])
def test_the_output_is_zero_at_initialisation(conv):
    assert not UViT(2, 4, 8, conv=conv)(*inputs()).any()


def test_weights_start_as_published():
    """Weights are truncated normals of std 0.02, cut at 2 and not at 2 std; patches start as a convolution does.

    Classes start as an embedding does.
    """
    network = UViT(4, 4, 32, channels=512, depth=3, num_heads=8, num_classes=1000)
    for weight in (
        network.early[0].mlp[0].weight,
        network.late[0].merge.weight,
        network.head.weight,
        network.positions,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert network.embed_condition.classes.weight.std().item() == pytest.approx(1, rel=0.02)
    assert network.embed_patches.weight.abs().max().item() == pytest.approx(16**-0.5, rel=1e-2)


def test_early_blocks_reach_the_output_through_the_skips():
    """If each merge drops the deep path, the first block still changes the output; if it drops both, it does not."""
    for cut, reaches in ((slice(0, 16), True), (slice(0, 32), False)):
        network = small()
        with torch.no_grad():
            for block in network.late:
                block.merge.weight[:, cut] = 0
        gradient = torch.autograd.grad(network(*inputs()).sum(), network.early[0].mlp[0].weight)[0]
        assert bool(gradient.any()) == reaches


@variants
def test_time_and_class_reach_the_output(variant):
    network, (x, c_noise, cond) = small(**variant), inputs()
    whole = network(x, c_noise, cond)
    for other in (
        network(x, c_noise + 100, cond),
        network(x, c_noise, Condition(vector=torch.tensor([1, 1]))),
        network(x, c_noise, cond.null()),
    ):
        assert (whole - other).abs().mean() > 1e-4 * whole.abs().mean()


def test_a_null_row_is_a_row_without_condition():
    network, (x, c_noise, cond) = small(), inputs()
    mixed = network(x, c_noise, cond.null(torch.tensor([True, False])))
    torch.testing.assert_close(mixed[0], network(x, c_noise, None)[0])
    torch.testing.assert_close(mixed[1], network(x, c_noise, cond)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_time_has_its_own_token(dtype):
    """This holds in bfloat16, which cannot represent 999: the sinusoids are computed before the cast."""
    network, sequences = small().to(dtype), []
    network.middle.register_forward_pre_hook(lambda module, arguments: sequences.append(arguments[0]))
    network.early = torch.nn.ModuleList()
    network.late = torch.nn.ModuleList()
    network(torch.zeros(1000, 2, 8, 8, dtype=dtype), torch.arange(1000.0), None)
    assert len(sequences[0][:, 1].unique(dim=0)) == 1000


def test_positions_of_other_grids_are_interpolated():
    """Between columns 1 and 2 the kernel is the cubic one of Keys with a = -3/4; time and class are unchanged."""

    def kernel(d):
        inner, outer = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        return torch.where(d < 1, inner, outer)

    network = small()
    learned = network.positions[2:].reshape(4, 4, 16)
    resized = network._positions((4, 8))
    assert torch.equal(resized[:2], network.positions[:2])
    for column, centre in ((3, 1.25), (4, 1.75)):  # the centres of new patches, in units of the old ones
        expected = torch.einsum("c,rcd->rd", kernel((torch.arange(4) - centre).abs()), learned)
        torch.testing.assert_close(resized[2:].reshape(4, 8, 16)[:, column], expected)
    assert network._positions((4, 4)) is network.positions
    assert network(torch.randn(2, 2, 4, 12), torch.zeros(2), None).shape == (2, 4, 4, 12)


@variants
def test_every_parameter_learns(variant):
    network = UViT(2, 4, 8, channels=16, depth=5, num_heads=2, num_classes=3, **variant)
    assert_every_parameter_learns(network, inputs(), steps=3)


@variants
def test_recomputing_blocks_does_not_change_gradients(variant):
    assert_computing_blocks_again_changes_no_gradient(small(**variant), inputs())


@pytest.mark.parametrize("variant", some(VARIANTS, 1, NAME))
def test_it_compiles_as_one_graph(variant):
    network = small(**variant)
    network.checkpointing = True  # its graph contains that of the network without it
    assert_it_compiles_as_one_graph(network, inputs())


@variants
def test_memory_with_channels_last_gives_the_same_numbers(variant):
    network, (x, c_noise, cond) = small(**variant).double(), inputs()
    last = network(x.double().to(memory_format=torch.channels_last), c_noise, cond)
    torch.testing.assert_close(last, network(x.double(), c_noise, cond), rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", some(VARIANTS, 1, NAME))
def test_it_overfits_sixteen_digits(overfit, variant):
    network = UViT(1, 1, 8, channels=32, depth=3, num_heads=2, **variant)
    assert overfit(network, goal=0.1) < 0.1


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"patch_size": 3}, r"backbone.patch_size=3 does not divide the 8-pixel image; use 1, 2, 4 or 8"),
        ({"channels": 15, "num_heads": 1}, r"backbone.channels must be even.*, not 15"),
        ({"num_heads": 5}, r"backbone.num_heads=5 does not divide backbone.channels=96"),
        ({"depth": 12}, r"backbone.depth=12 has no middle block; use 11 or 13"),
        ({"rope": True, "num_heads": 16}, r"backbone.rope needs heads of 4, 8"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(bad, match):
    with pytest.raises(ValueError, match=match):
        UViT(1, 1, 8, **bad)
