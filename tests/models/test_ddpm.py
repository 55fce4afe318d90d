"""DDPM's training and validation losses, compared with losses written out from the noise of the positions."""

import pytest
import torch
from lightning import Trainer
from trainers import QUIET

from diffsweep.configuration.build import build_model
from diffsweep.datasets import Digits, load_digits
from diffsweep.diffusion import Noise, Stream, stratified
from diffsweep.schedules import Cosine


@pytest.fixture
def model(compose):
    return build_model(compose("backbone.channels=8", "schedule=cosine", "seed=3"))


def test_the_training_loss_is_l_simple_at_the_times_and_noise_of_the_positions(model):
    """DDPM alg. 1, with t = k / T for k uniform in 1 .. T."""
    torch.nn.init.normal_(model.denoiser.backbone.conv_out.weight, std=0.1)
    x_0, position = load_digits("train")["x"][:8], torch.arange(40, 48)
    noise = Noise(3, position)
    k = (noise.uniform(stream=Stream.TIME) * 1000).floor() + 1
    eps = noise.normal(1, 8, 8, stream=Stream.EPS)
    alpha, sigma = (value.float()[:, None, None, None] for value in Cosine(1000)(k.double() / 1000))
    output = model.denoiser.backbone(alpha * x_0 + sigma * eps, k - 1, None)
    ours = model.training_step({"x": x_0, "position": position}, 0)
    torch.testing.assert_close(ours, (output - eps).square().mean(), rtol=1e-4, atol=0)


def test_validation_uses_the_same_times_and_noise_for_every_seed(model, tmp_path):
    """At initialisation the output is 0: the loss is the mean of eps^2, and x0 the clipped x_t / alpha."""
    for seed in (3, 11):  # runs of different seeds share their validation
        model.seed = seed
        trainer = Trainer(**QUIET, default_root_dir=tmp_path, inference_mode=False)
        (logged,) = trainer.validate(model, Digits(), verbose=False)
        x_0 = load_digits("val")["x"].repeat(4, 1, 1, 1)
        index = torch.arange(4 * 297)
        eps = Noise(0, index).normal(1, 8, 8, stream=Stream.VALIDATION)
        t = ((stratified(4 * 297) * 1000).floor() + 1) / 1000
        alpha, sigma = (value.float()[:, None, None, None] for value in Cosine(1000)(t))
        squares = eps.square().flatten(1).mean(1)
        assert logged["val/loss"] == pytest.approx(float(squares.mean()), rel=1e-5)
        assert logged["val/eps_mse"] == pytest.approx(float(squares.mean()), rel=1e-5)
        x0 = ((alpha * x_0 + sigma * eps) / alpha).clamp(-1, 1)
        assert logged["val/x0_mse"] == pytest.approx(float((x0 - x_0).square().mean()), rel=1e-3)
        quarter = (4 * t).ceil().long()
        for q in (1, 2, 3, 4):
            assert logged[f"val/loss_q{q}"] == pytest.approx(float(squares[quarter == q].mean()), rel=1e-3)
