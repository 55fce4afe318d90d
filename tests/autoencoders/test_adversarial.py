"""The patch discriminator against its published structure; losses and the adaptive weight against known values."""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from diffsweep.autoencoders import AdversarialLoss, PatchDiscriminator, adaptive_weight
from diffsweep.configuration.check import check

CONF = Path(__file__).parents[2] / "conf" / "discriminator"


def small(size=8, **settings):
    return PatchDiscriminator(1, size, channels=8, **settings)


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("channels", "count"), [(3, 2_765_633), (6, 2_768_705)])
def test_the_discriminator_has_the_published_parameter_count(channels, count):
    """The published counts are 2.769 M for pix2pix, whose input is pairs, and 2.765 M for CycleGAN.

    BatchNorm has as many weights as GroupNorm.
    """
    with torch.device("meta"):
        assert numbers(PatchDiscriminator(channels, 256)) == count


def test_three_halvings_have_a_receptive_field_of_70_pixels():
    """The norms, which depend on the whole image, are left out."""
    network = PatchDiscriminator(1, 256, channels=2)
    network.layers = nn.Sequential(
        *(nn.Identity() if isinstance(m, nn.GroupNorm) else m for m in network.layers)
    ).double()
    x = torch.randn(1, 1, 256, 256).double().requires_grad_()
    logits = network(x)
    assert logits.shape == (1, 1, 30, 30)
    (gradient,) = torch.autograd.grad(logits[0, 0, 15, 15], x)
    reached = gradient[0, 0].nonzero()
    assert (reached.max(0).values - reached.min(0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize(
    ("size", "halvings", "patches"),
    [(6, None, 1), (8, None, 2), (12, None, 1), (28, None, 1), (32, None, 2), (64, None, 6), (64, 4, 2), (64, 1, 30)],
)
def test_halvings_fit_the_image(size, halvings, patches):
    assert small(size, halvings=halvings)(torch.zeros(2, 1, size, size)).shape == (2, 1, patches, patches)


@pytest.mark.parametrize(
    ("size", "settings", "match"),
    [
        (5, {}, "at least 6 pixels, not 5; use discriminator=none"),
        (8, {"halvings": 2}, "halvings=2 does not fit: 8 pixels can be halved from 1 to 1 times"),
        (32, {"halvings": 0}, "halvings=0 does not fit: 32 pixels can be halved from 1 to 3 times"),
        (32, {"channels": 0}, "channels must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused_with_the_reason(size, settings, match):
    with pytest.raises(ValueError, match=match):
        PatchDiscriminator(1, size, **settings)


def test_weights_are_initialised_as_published():
    network = PatchDiscriminator(3, 32)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_loss_of_a_sample_does_not_depend_on_its_batch():
    loss = AdversarialLoss(small().double())
    x, fake = torch.randn(2, 4, 1, 8, 8).double()
    alone = torch.cat([loss.discriminator_loss(x[i : i + 1], fake[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(loss.discriminator_loss(x, fake), alone)
    assert len(set(alone.tolist())) == 4


# (discriminator, decoder) for the logits of two patches: real 2 and 0.5, fake -3 and 0.25
BY_HAND = {
    "hinge": (((0 + 0.5) / 2 + (0 + 1.25) / 2) / 2, (3 - 0.25) / 2),
    "vanilla": (
        sum(math.log1p(math.exp(v)) for v in (-2, -0.5, -3, 0.25)) / 4,
        (math.log1p(math.exp(3)) + math.log1p(math.exp(-0.25))) / 2,
    ),
    "least_squares": ((1 + 0.25 + 9 + 0.0625) / 4, (16 + 0.5625) / 4),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_losses_have_the_values_computed_by_hand(kind):
    loss = AdversarialLoss(nn.Identity(), kind)
    x, fake = torch.tensor([[2.0, 0.5]]).view(1, 1, 1, 2), torch.tensor([[-3.0, 0.25]]).view(1, 1, 1, 2)
    discriminator, decoder = BY_HAND[kind]
    torch.testing.assert_close(loss.discriminator_loss(x, fake), torch.tensor([discriminator]))
    torch.testing.assert_close(loss.generator_loss(fake), torch.tensor([decoder]))


@pytest.mark.parametrize("kind", BY_HAND)
def test_each_loss_has_gradients_for_one_side_only(kind):
    """The gradients of the sum of both losses are those of the loss that each side is trained by."""
    loss = AdversarialLoss(small(), kind)
    x, fake = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8, requires_grad=True)
    weights = list(loss.parameters())
    (loss.generator_loss(fake) + loss.discriminator_loss(x, fake)).mean().backward()
    got = [fake.grad, *(weight.grad for weight in weights)]

    of_decoder = torch.autograd.grad(loss.generator_loss(fake).mean(), [fake, *weights], allow_unused=True)
    assert of_decoder[0].any()
    assert of_decoder[1:] == (None,) * len(weights)
    of_discriminator = torch.autograd.grad(loss.discriminator_loss(x, fake).mean(), [fake, *weights], allow_unused=True)
    assert of_discriminator[0] is None
    for ours, expected in zip(got, [of_decoder[0], *of_discriminator[1:]], strict=True):
        torch.testing.assert_close(ours, expected)
    # the decoder has the same gradient as through the network with its own weights
    (through,) = torch.autograd.grad(loss.losses.generator(loss.network(fake)).mean(), fake)
    torch.testing.assert_close(of_decoder[0], through)


def test_losses_are_float32_under_autocast():
    loss, x = AdversarialLoss(small()), torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss.generator_loss(x).dtype == loss.discriminator_loss(x, x).dtype == torch.float32


def test_adaptive_weight_is_the_quotient_of_the_gradients():
    last, other = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)
    reconstruction = last * torch.tensor([3.0, 4.0]) * other  # gradients 3 * 3 and 4 * 3 of its sum: 15
    generator = (last * torch.tensor([0.6, 0.8])).sum()  # 1
    weight = adaptive_weight(reconstruction.sum(), generator, last)
    assert weight.item() == pytest.approx(15 / 1.0001, rel=1e-6)
    assert not weight.requires_grad
    assert last.grad is None
    assert other.grad is None
    (reconstruction.sum() + weight * generator).backward()  # the graphs have been kept
    torch.testing.assert_close(last.grad, torch.tensor([9 + 0.6 * 15 / 1.0001, 12 + 0.8 * 15 / 1.0001]))


def test_adaptive_weight_is_bounded():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    assert adaptive_weight(last.sum(), 0 * last.sum(), last).item() == 1e4
    assert adaptive_weight(0 * last.sum(), last.sum(), last).item() == 0


def first_stage_loss(decoder, discriminator, x, step):
    """Return the loss of a training step, L1 and the adversarial losses, composed as models do."""
    fake = decoder(x)
    per_sample = (x - fake).abs().mean((1, 2, 3))
    loss = per_sample
    if step >= discriminator.start:
        generator = discriminator.generator_loss(fake)
        weight = discriminator.weight * adaptive_weight(per_sample.mean(), generator.mean(), decoder.weight)
        loss = loss + weight * generator + discriminator.discriminator_loss(x, fake)
    return loss.mean()


def test_before_start_neither_adversarial_loss_is_used():
    decoder, x = nn.Conv2d(1, 1, 3, padding=1), torch.randn(4, 1, 8, 8)
    discriminator = AdversarialLoss(small(), start=5)
    (alone,) = torch.autograd.grad((x - decoder(x)).abs().mean(), decoder.weight)

    first_stage_loss(decoder, discriminator, x, step=4).backward()
    torch.testing.assert_close(decoder.weight.grad, alone)
    assert all(parameter.grad is None for parameter in discriminator.parameters())

    decoder.zero_grad()
    first_stage_loss(decoder, discriminator, x, step=5).backward()
    of_decoder = decoder.weight.grad - alone
    assert of_decoder.norm().item() == pytest.approx(
        0.5 * alone.norm().item(), rel=0.05
    )  # the weight 0.5 times the gradient of L1
    expected = torch.autograd.grad(
        discriminator.discriminator_loss(x, decoder(x)).mean(), list(discriminator.parameters())
    )
    for parameter, gradient in zip(discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_discriminator_learns_to_distinguish_noise_from_lines():
    loss = AdversarialLoss(small())
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)

    def batch():
        lines = torch.randn(16, 1, 8, 1, generator=generator).sign().expand(16, 1, 8, 8)
        return lines, torch.randn(16, 1, 8, 8, generator=generator)

    for _ in range(60):
        optimizer.zero_grad()
        loss.discriminator_loss(*batch()).mean().backward()
        optimizer.step()
    lines, noise = batch()
    assert (loss.network(lines).mean((1, 2, 3)) > 0).all()
    assert (loss.network(noise).mean((1, 2, 3)) < 0).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"loss": "wasserstein"}, "discriminator.loss is one of hinge, vanilla, least_squares, not wasserstein"),
        ({"start": -1}, "discriminator.start is a step, 0 or later, not -1"),
        ({"weight": 0.0}, "discriminator.weight must be above 0, not 0.0; use discriminator=none"),
        ({"lr": 0.0}, "discriminator.lr must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        AdversarialLoss(small(), **settings)


def test_the_options_build_their_classes():
    def cfg(option):
        own, data = OmegaConf.load(CONF / f"{option}.yaml"), {"channels": 3, "image_size": 32}
        return OmegaConf.create({"trust": [], "dataset": data, "optimizer": {"lr": 0.003}, "discriminator": own})

    patch = cfg("patch")
    check(patch)
    loss = instantiate(patch.discriminator, _convert_="all")
    assert (loss.start, loss.weight, loss.lr) == (1000, 0.5, 0.003)
    logits = loss.network(torch.zeros(1, 3, 32, 32))
    assert logits.shape == (1, 1, 2, 2)
    assert all(name.startswith("network.") for name in loss.state_dict())
    torch.testing.assert_close(loss.generator_loss(torch.zeros(1, 3, 32, 32)), -logits.mean()[None])
    assert instantiate(cfg("none").discriminator) is None
