"""Autoencoder training: the loss, the discriminator, the statistics of latents, and what is measured."""

import torch
from lightning import Trainer
from trainers import QUIET

from diffsweep.configuration.build import build_data, build_model
from diffsweep.datasets import load_digits

SMALL = ("autoencoder.network.channels=8", "autoencoder.network.channel_mult=[1,1]")


def make(compose, *overrides):
    return build_model(compose("model=autoencoder_kl", "model.augmentation.pixels=0", *SMALL, *overrides))


def batch_of(count=16):
    return {"x": load_digits("train")["x"][:count], "position": torch.arange(count)}


def gradients(model, batch):
    loss = model.training_step(batch, 0)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return loss, dict(zip(named, found, strict=True))


def test_the_loss_is_the_pixel_distance_plus_the_weighted_terms(compose):
    model = make(compose, "autoencoder.network.kl_weight=0.25").eval()
    batch = batch_of()
    loss = model.training_step(batch, 0)
    from diffsweep.diffusion import Noise

    made = model.autoencoder.reconstruct(batch["x"], Noise(0, batch["position"]))
    expected = (made.x - batch["x"]).square().mean() + 0.25 / 64 * made.terms["kl"].mean()
    torch.testing.assert_close(loss, expected)
    l1 = make(compose, "autoencoder.network.kl_weight=0", "model.pixel_loss=l1").eval()
    made = l1.autoencoder.reconstruct(batch["x"], Noise(0, batch["position"]))
    torch.testing.assert_close(l1.training_step(batch, 0), (made.x - batch["x"]).abs().mean())


def test_the_discriminator_changes_nothing_before_its_start(compose):
    """It has no gradient and gives the decoder none, and the loss is equal to the bit to that without it."""
    alone, beside = make(compose), make(compose, "discriminator=patch", "discriminator.start=5")
    beside.autoencoder.load_state_dict(alone.autoencoder.state_dict())
    (loss, of_alone), (same, of_beside) = gradients(alone, batch_of()), gradients(beside, batch_of())
    assert torch.equal(loss, same)
    for name, gradient in of_alone.items():
        assert torch.equal(gradient, of_beside[name])
    assert all(gradient is None for name, gradient in of_beside.items() if name.startswith("discriminator"))


def test_after_its_start_the_discriminator_and_the_decoder_learn_from_their_own_losses(compose):
    model = make(compose, "discriminator=patch", "discriminator.start=0").eval()
    alone = make(compose).eval()
    alone.autoencoder.load_state_dict(model.autoencoder.state_dict())
    batch = batch_of()
    _, found = gradients(model, batch)
    _, without = gradients(alone, batch)
    _, _, made = model.distances(batch["x"], None)
    from diffsweep.diffusion import Noise

    _, _, made = model.distances(batch["x"], Noise(0, batch["position"]))
    own = list(model.discriminator.parameters())
    expected = torch.autograd.grad(model.discriminator.discriminator_loss(batch["x"], made.detach()).mean(), own)
    for (name, _), gradient in zip(model.discriminator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"discriminator.{name}"], gradient)
    last = "autoencoder.decoder.conv_out.weight"
    pushed = found[last] - without[last]
    # The adaptive weight gives both gradients of the last layer the same norm, times the weight of the loss.
    torch.testing.assert_close(
        pushed.norm(), model.discriminator.weight * _distance_gradient(alone, batch, last).norm(), rtol=1e-2, atol=0
    )


def _distance_gradient(model, batch, name):
    from diffsweep.diffusion import Noise

    distance, _, _ = model.distances(batch["x"], Noise(0, batch["position"]))
    return torch.autograd.grad(distance.mean(), dict(model.named_parameters())[name])[0]


def test_latents_of_the_training_set_are_standardised(compose):
    model, data = make(compose).eval(), build_data(compose())
    mean, std, stds = model.latent_statistics(data)
    z = model.autoencoder.encode(data.split("train")["x"]).double()
    torch.testing.assert_close(mean, z.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stds, z.std((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)
    model.autoencoder.standardise(mean, std)
    again, same, _ = model.latent_statistics(data)  # of h, whatever the standardisation
    torch.testing.assert_close(again, mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(same, std, rtol=1e-4, atol=0)
    z = model.autoencoder.encode(data.split("train")["x"])
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    assert abs(z.square().mean() - 1) < 1e-3


def test_two_optimizers_resume_from_a_checkpoint_bit_by_bit(compose, tmp_path):
    """The discriminator starts before the checkpoint and the autoencoder from the first step."""
    overrides = ("discriminator=patch", "discriminator.start=3", "model.statistics=64", "dataset.batch_size=16")

    def trainer(steps):
        return Trainer(**QUIET, max_steps=steps, limit_val_batches=0, gradient_clip_val=0.1)

    def fit(steps, path=None):
        model, data = make(compose, *overrides), build_data(compose("model=autoencoder_kl", *overrides))
        training = trainer(steps)
        training.fit(model, data, ckpt_path=path)
        return model, training

    whole, _ = fit(6)
    _, half = fit(4)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(6, tmp_path / "half.ckpt")
    for (name, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_psnr_and_ssim_follow_their_formulas_and_files_are_written(compose, tmp_path):
    """Perfect reconstructions have an infinite PSNR and an SSIM of 1; a model's PSNR is that of its mean error."""
    from diffsweep.metrics import psnr, ssim

    x = load_digits("val")["x"]
    assert psnr(float((x - x).square().mean())) == float("inf")
    assert abs(psnr(0.04) - 20) < 1e-9  # 10 log10(4 / 0.04)
    torch.testing.assert_close(ssim(x, x), torch.ones(len(x)))
    model, data = make(compose).eval(), build_data(compose())
    numbers = model.measure(data, tmp_path, None)
    made = model.autoencoder.reconstruct(x).x.clamp(-1, 1)
    assert abs(numbers["psnr"] - psnr(float((made - x).square().mean()))) < 1e-4
    assert (tmp_path / "reconstructions.png").is_file()
    assert len((tmp_path / "latents.csv").read_text().splitlines()) == 3


def test_a_channel_of_small_variance_is_named_in_a_warning(compose, tmp_path, capsys):
    model, data = make(compose).eval(), build_data(compose())
    model.measure(data, tmp_path)
    assert "badly scaled" not in capsys.readouterr().out
    with torch.no_grad():
        out = list(model.autoencoder.encoder.parameters())[-2:]
        for parameter in out:  # the last convolution: mean and log-variance of two channels
            parameter[1] *= 0.001
    model.measure(data, tmp_path)
    assert "channel 1 of the latents is badly scaled" in capsys.readouterr().out
