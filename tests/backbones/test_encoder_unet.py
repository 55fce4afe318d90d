"""The classifier backbone: attention pooling, published sizes, features and logits."""

import pytest
import torch

from diffsweep.backbones import EncoderUNet, UNet
from diffsweep.backbones.unet_blocks import AttentionPool2d


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(**settings):
    return EncoderUNet(**{"in_channels": 1, "num_classes": 5, "image_size": 8, "channels": 8, **settings})


def randomised(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("heads", [1, 2])
def test_pooling_is_multi_head_attention_of_the_mean(heads):
    """Pooling equals PyTorch's multi-head attention of all tokens, of which the output of the mean's token is used."""
    pooling = AttentionPool2d(6, 3, heads).double()
    x = torch.randn(2, 6, 3, 3).double()
    theirs = torch.nn.MultiheadAttention(6, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([pooling.to_q.weight, pooling.to_kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([pooling.to_q.bias, pooling.to_kv.bias]))
        theirs.out_proj.weight.copy_(torch.eye(6))
        theirs.out_proj.bias.zero_()
    tokens = x.flatten(2).mT  # (2, 9, 6)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + pooling.positions
    torch.testing.assert_close(pooling(x), theirs(tokens, tokens, tokens)[0][:, 0])


def test_pooling_depends_on_positions():
    pooling, x = AttentionPool2d(4, 3, 1), torch.randn(1, 4, 3, 3)
    assert not torch.allclose(pooling(x), pooling(x.flip(3)))


def test_pooling_refuses_maps_of_another_size():
    with pytest.raises(ValueError, match=r"maps of side 3 was given \(4, 4\)"):
        AttentionPool2d(4, 3, 1)(torch.zeros(1, 4, 4, 4))


def published(size, width, depth, mult, classes=1000):
    """Return the parameter count of guided-diffusion's EncoderUNetModel, from the shapes of its layers.

    It has pool="attention", scale-shift norms and residual blocks that resample.
    """

    def conv(i, o, k):
        return i * o * k * k + o

    def residual(i, o):
        return (
            2 * i + conv(i, o, 3) + conv(4 * width, 2 * o, 1) + 2 * o + conv(o, o, 3) + (conv(i, o, 1) if i != o else 0)
        )

    def attention(c):
        return 2 * c + conv(c, 3 * c, 1) + conv(c, c, 1)

    side, c = size, mult[0] * width
    total = conv(width, 4 * width, 1) + conv(4 * width, 4 * width, 1) + conv(3, c, 3)
    for level, m in enumerate(mult):
        for _ in range(depth):
            total += residual(c, m * width) + (attention(m * width) if side in (32, 16, 8) else 0)
            c = m * width
        if level < len(mult) - 1:
            total, side = total + residual(c, c), side // 2
    total += 2 * residual(c, c) + attention(c)
    return total + 2 * c + c * (side**2 + 1) + conv(c, 3 * c, 1) + conv(c, classes, 1)


@pytest.mark.parametrize(
    ("preset", "size", "depth", "mult", "count"),
    [
        ("adm_classifier_64", 64, 4, (1, 2, 3, 4), 65_438_568),
        ("adm_classifier_128", 128, 2, (1, 1, 2, 3, 4), 42_568_040),
        ("adm_classifier_256", 256, 2, (1, 1, 2, 2, 4, 4), 54_096_360),  # with ADM's 553.8M, ADM-G's 608M
    ],
)
def test_published_classifiers_have_the_published_parameter_counts(compose, preset, size, depth, mult, count):
    settings = dict(compose(f"backbone={preset}").backbone)
    settings.pop("_target_")
    settings.update(in_channels=3, num_classes=1000, image_size=size)
    with torch.device("meta"):
        assert numbers(EncoderUNet(**settings)) == published(size, 128, depth, mult) == count


def test_its_encoder_is_that_of_a_unet():
    """The modules have the names of a U-Net's, so that the weights of its way down and middle can be loaded."""
    settings = {"block": "biggan", "time_embedding": "scale_shift", "attention_factors": [2], "head_channels": 4}
    whole = UNet(1, 1, 8, channels=8, num_res_blocks=1, **settings)
    half = small(**settings)
    shared = {k: v for k, v in whole.state_dict().items() if not k.startswith(("up.", "norm_out.", "conv_out."))}
    missing, unexpected = half.load_state_dict(shared, strict=False)
    assert not unexpected
    assert {name.partition(".")[0] for name in missing} == {"norm_out", "pool", "to_logits"}


def test_initial_logits_are_zero_and_every_parameter_learns():
    network = small(num_res_blocks=2, attention_factors=[1, 2])
    x, c_noise, label = torch.randn(6, 1, 8, 8), torch.linspace(0, 999, 6), torch.arange(6) % 5
    assert not network(x, c_noise)[1].any()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x, c_noise)[1], label).backward()
        optimizer.step()
    untrained = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untrained


def test_logits_are_linear_in_the_features():
    network = randomised(small(feature_dropout=0.5)).eval()
    features, logits = network(torch.randn(3, 1, 8, 8), torch.tensor([0.0, 10.0, 900.0]))
    assert features.shape == (3, network.num_features) == (3, 16)
    torch.testing.assert_close(logits, features @ network.to_logits.weight.T + network.to_logits.bias)


@pytest.mark.parametrize("block", ["ddpm", "biggan", "convnext"])
def test_feature_maps_are_the_last_ones_of_each_level(block):
    """The expected maps are outputs of the levels' modules in a call of the network."""
    network, outputs = randomised(small(channel_mult=[1, 2, 3], num_res_blocks=2, block=block)).eval(), []
    for module in network.down:
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    network(x, c_noise)
    assert len(outputs) == 8  # two blocks a level, and a halving between levels
    expected, maps = [outputs[i] for i in (1, 4, 7)], network.feature_maps(x, c_noise)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 8, 8), (2, 16, 4, 4), (2, 24, 2, 2)]
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))


def test_feature_dropout_changes_the_logits_in_training_only():
    network = randomised(small(feature_dropout=0.5))
    inputs = torch.randn(2, 1, 8, 8), torch.zeros(2)
    (features, logits), (again, others) = network(*inputs), network(*inputs)
    assert torch.equal(features, again)
    assert not torch.equal(logits, others)
    network.eval()
    assert torch.equal(network(*inputs)[1], network(*inputs)[1])


def test_time_and_every_pixel_reach_the_logits():
    network = randomised(small()).double().eval()
    x, c_noise = torch.randn(2, 1, 8, 8).double().requires_grad_(), torch.tensor([3.0, 700.0]).double().requires_grad_()
    network(x, c_noise)[1].square().sum().backward()
    assert (x.grad != 0).all()
    assert (c_noise.grad.abs() > 1e-9).all()


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"num_classes": None}, "at least 2 classes, .* no labels"),
        ({"num_classes": 1}, "at least 2 classes, .* has 1;"),
        ({"channel_mult": [1, 2, 2, 2, 2]}, "down to 1 pixel after 4; use fewer"),
        ({"attention_factors": [4]}, r"has \[4\], but the levels have the factors \[1, 2\]"),
        ({"channels": 24, "head_channels": 32}, "backbone.head_channels=32 does not divide a level's 48 channels"),
        ({"block": "resnet"}, "backbone.block is one of ddpm, biggan, convnext"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(bad, match):
    with pytest.raises(ValueError, match=match):
        small(**bad)
