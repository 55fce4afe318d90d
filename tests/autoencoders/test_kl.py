"""The KL autoencoder against diffusers' AutoencoderKL, torch.distributions and closed forms."""

import pytest
import torch
from diffusers import AutoencoderKL

from diffsweep.autoencoders import KLAutoencoder
from diffsweep.autoencoders.public import public_names
from diffsweep.diffusion import Noise, Stream

SMALL = {"image_size": 8, "in_channels": 1, "latent_channels": 2, "channels": 8, "norm_groups": 2}


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def autoencoder():
    model = KLAutoencoder(**SMALL, factor=2).double().eval()
    model.standardise(torch.tensor([0.5, -1.0]), torch.tensor(2.0))
    return model


@pytest.mark.parametrize(
    ("factor", "mult", "attention", "middle"),
    [(4, [1, 2, 2], [], True), (4, [1, 2, 3], [2, 4], True), (8, [1, 1, 2, 2], [8], True), (8, [1, 2], [], False)],
)
def test_it_equals_the_autoencoder_of_diffusers(factor, mult, attention, middle):
    widths = [8 * m for m in (*mult, *[mult[-1]] * (factor.bit_length() - len(mult)))]
    attends = [2**level in attention for level in range(len(widths))]
    theirs = AutoencoderKL(
        3, 3, [("" if not a else "Attn") + "DownEncoderBlock2D" for a in attends],
        [("" if not a else "Attn") + "UpDecoderBlock2D" for a in attends[::-1]], widths, layers_per_block=2,
        latent_channels=4, norm_num_groups=2, mid_block_add_attention=middle,
    )  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = KLAutoencoder(
        image_size=16, in_channels=3, latent_channels=4, factor=factor, channels=8, channel_mult=mult, num_res_blocks=2,
        attention_factors=attention, middle_attention=middle, norm_groups=2,
    )  # fmt: skip
    assert numbers(ours) == numbers(theirs)
    weights = theirs.state_dict()
    for name, parameter in ours.named_parameters():
        parts = torch.cat([weights.pop(part) for part in public_names(name)])
        parameter.data.copy_(parts.reshape(parameter.shape))
    assert not weights  # every parameter of theirs has been copied
    ours, theirs = ours.double().eval(), theirs.double().eval()
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    distribution = theirs.encode(x).latent_dist
    mean, std = ours.posterior(x).chunk(2, dim=1)
    torch.testing.assert_close(mean, distribution.mean)
    torch.testing.assert_close(std, distribution.std)
    assert mean.std() > 1e-3
    z = torch.randn(2, 4, 16 // factor, 24 // factor, dtype=torch.float64)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample)


@pytest.mark.parametrize(
    ("factor", "mult", "latent", "published"), [(8, [1, 2, 4, 4], 4, 83_653_863), (4, [1, 2, 4], 3, None)]
)
def test_published_networks_have_the_published_parameter_counts(factor, mult, latent, published):
    """The networks are kl-f8, Stable Diffusion's, and kl-f4; the counts are those of diffusers."""
    widths = [128 * m for m in mult]
    with torch.device("meta"):
        ours = KLAutoencoder(256, 3, latent, factor=factor, channels=128, channel_mult=mult, num_res_blocks=2)
        theirs = AutoencoderKL(
            3, 3, ["DownEncoderBlock2D"] * len(mult), ["UpDecoderBlock2D"] * len(mult), widths, 2,
            latent_channels=latent,
        )  # fmt: skip
    assert numbers(ours) == numbers(theirs)
    assert published in (None, numbers(ours))
    assert ours.shape == (latent, 256 // factor, 256 // factor)


def test_levels_beyond_channel_mult_have_its_last_width():
    with torch.device("meta"):
        short, full = (
            KLAutoencoder(16, 3, 4, factor=8, channels=8, channel_mult=mult) for mult in ([1, 2], [1, 2, 2, 2])
        )
    assert [p.shape for p in short.parameters()] == [p.shape for p in full.parameters()]


@pytest.mark.parametrize("noisy", [False, True])
def test_kl_is_that_of_the_distribution_whatever_the_standardisation(autoencoder, noisy):
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    mean, log_variance = autoencoder.moments(x)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    noise = Noise(0, torch.arange(3)) if noisy else None
    torch.testing.assert_close(autoencoder.reconstruct(x, noise).terms["kl"], kl)


def test_a_posterior_is_standardised_and_drawn_with_the_noise_of_its_samples(autoencoder):
    x, noise = torch.randn(3, 1, 8, 8, dtype=torch.float64), Noise(7, torch.tensor([5, 2, 9]))
    mean, log_variance = autoencoder.moments(x)
    shift = torch.tensor([0.5, -1.0], dtype=torch.float64)[:, None, None]
    posterior = autoencoder.posterior(x)
    torch.testing.assert_close(autoencoder.draw(posterior), (mean - shift) / 2)
    h = mean + log_variance.exp().sqrt() * noise.normal(2, 4, 4, stream=Stream.POSTERIOR, dtype=torch.float64)
    torch.testing.assert_close(autoencoder.draw(posterior, noise), (h - shift) / 2)
    torch.testing.assert_close(autoencoder.encode(x[1:2], noise[1:2]), ((h - shift) / 2)[1:2])
    alone = posterior[:, :2]
    assert torch.equal(autoencoder.draw(alone, noise), alone)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_reconstruction_is_the_decoded_encoding(autoencoder, noisy):
    """The standardisation of the space cancels."""
    x, noise = torch.randn(3, 1, 8, 8, dtype=torch.float64), Noise(7, torch.arange(3)) if noisy else None
    z = autoencoder.encode(x, noise)
    torch.testing.assert_close(autoencoder.reconstruct(x, noise).x, autoencoder.decode(z))


@pytest.mark.parametrize(("bias", "clamped"), [(100.0, 20.0), (-100.0, -30.0)])
def test_log_variances_are_clamped(autoencoder, bias, clamped):
    autoencoder.encoder.quant_conv.bias.data[2:] = bias
    assert torch.equal(
        autoencoder.moments(torch.zeros(1, 1, 8, 8).double())[1], torch.full((1, 2, 4, 4), clamped).double()
    )


def test_standardised_latents_have_mean_0_and_std_1():
    model = KLAutoencoder(**SMALL).double().eval()
    x = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    h = model.encode(x)
    mean = h.mean((0, 2, 3))
    model.standardise(mean, (h - mean[:, None, None]).square().mean().sqrt())
    z = model.encode(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(z.square().mean(), torch.ones((), dtype=torch.float64))
    again = KLAutoencoder(**SMALL).double().eval()
    again.load_state_dict(model.state_dict())  # the state holds shift and scale
    assert torch.equal(again.encode(x), z)


def test_an_affine_autoencoder_reconstructs_exactly():
    """The weights make both networks affine: the norms change nothing, and the latents are the pixels."""
    model = KLAutoencoder(8, 1, 1, factor=1, channels=4, channel_mult=[1], num_res_blocks=1, middle_attention=False)
    model = model.double().eval()
    with torch.no_grad():
        for network in (model.encoder, model.decoder):
            for name, parameter in network.named_parameters():
                if "blocks" in name or name.startswith(("conv_in", "conv_out")):
                    parameter.zero_()
            # silu(a) - silu(-a) = a, and the norm does not change the channels x, -x, 0, 0 if their variance is 1
            network.conv_in.weight[0, 0, 1, 1], network.conv_in.weight[1, 0, 1, 1] = 1, -1
            network.conv_out.weight[0, 0, 1, 1], network.conv_out.weight[0, 1, 1, 1] = 1, -1
        model.encoder.quant_conv.weight.zero_()[0, 0] = 1
        model.encoder.quant_conv.bias.zero_()
        model.decoder.post_quant_conv.weight.fill_(1)
        model.decoder.post_quant_conv.bias.zero_()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    x = x / (0.5 * x.square().mean((1, 2, 3), keepdim=True)).sqrt()  # the channels x, -x, 0, 0 have variance 1
    model.standardise(torch.tensor([0.3]), torch.tensor(1.7))
    z = model.encode(x)
    torch.testing.assert_close(z, (x - 0.3) / 1.7, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.decode(z), x, rtol=1e-5, atol=1e-5)


def test_the_last_layer_makes_the_pixels(autoencoder):
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    autoencoder.last_layer.data.zero_()
    assert torch.equal(
        autoencoder.reconstruct(x).x, autoencoder.decoder.conv_out.bias[:, None, None].expand(2, 1, 8, 8)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 3}, "autoencoder.factor is a power of two"),
        ({"factor": 0}, "autoencoder.factor is a power of two"),
        ({"factor": 16}, r"autoencoder.factor=16 does not divide dataset.image_size=8; use 1 or 2 or 4 or 8"),
        (
            {"factor": 1},
            r"channel_mult=\[1, 2\] is of 2 levels, but autoencoder.factor=1 makes 1; .*autoencoder.factor=2",
        ),
        ({"channel_mult": []}, "autoencoder.network.channel_mult"),
        ({"attention_factors": [4]}, r"autoencoder.network.attention_factors has \[4\].*factors \[1, 2\]"),
        ({"kl_weight": -1.0}, "autoencoder.network.kl_weight"),
        ({"num_res_blocks": 0}, "autoencoder.network.num_res_blocks"),
        ({"latent_channels": 0}, "autoencoder.channels"),
        ({"dropout": 1.0}, "autoencoder.network.dropout"),
    ],
)
def test_impossible_options_are_refused_by_their_key(settings, message):
    with pytest.raises(ValueError, match=message):
        KLAutoencoder(**{**SMALL, **settings})
