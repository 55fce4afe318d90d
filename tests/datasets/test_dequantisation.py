"""Dequantised values are uniform in the bin of their level, keyed by (seed, position), in training alone."""

import pytest
import torch

from diffsweep import compose
from diffsweep.datasets import Digits, MovingDigits, Shapes
from diffsweep.datasets.orders import Shuffled
from diffsweep.datasets.stream import TrainingStream
from diffsweep.errors import UserError


def test_values_are_uniform_in_the_bin_of_their_level():
    plain, changed = (stream_of(Digits(dequantise=on).loader_samples("train"), 0) for on in (False, True))
    difference = (changed[range(6000)]["x"] - plain[range(6000)]["x"]).double() * 16  # of 17 levels, in bins of width 2
    assert difference.abs().max() <= 1 + 1e-5
    assert difference.mean().item() == pytest.approx(0, abs=0.004)  # 384,000 numbers: standard error 0.0009
    assert difference.square().mean().item() == pytest.approx(1 / 3, abs=0.003)
    levels = ((changed[range(6000)]["x"] + 1) * 8).round()
    assert torch.equal(levels / 8 - 1, plain[range(6000)]["x"])


def test_noise_depends_on_the_position_and_leaves_other_data_alone():
    data = Digits(dequantise=True)
    stream = stream_of(data.loader_samples("train"), 5)
    assert torch.equal(stream[range(90, 120)]["x"], stream[range(120)]["x"][90:])
    assert not torch.equal(stream[range(1)]["x"], stream_of(data.loader_samples("train"), 6)[range(1)]["x"])
    for split in ("train", "val"):
        assert torch.equal(data.split(split)["x"], Digits().split(split)["x"])
    assert torch.equal(data.loader_samples("val")["x"], Digits().loader_samples("val")["x"])
    assert data.fingerprint == Digits().fingerprint


@pytest.mark.parametrize("dataset", [Shapes, MovingDigits])
def test_every_dataset_can_be_dequantised(dataset):
    x, dequantised = (
        next(iter(dataset(num_train=8, num_val=4, batch_size=4, dequantise=on).train_dataloader()))["x"]
        for on in (False, True)
    )
    assert not torch.equal(x, dequantised)
    assert (x - dequantised).abs().max() <= 1 / 255 + 1e-6


def test_losses_of_levels_are_refused_and_a_bound_is_noted(capsys):
    words = ["dataset.dequantise=true", "objective=vlb", "prediction.variance=learned_range"]
    with pytest.raises(UserError, match=r"densities.*losses_of_levels_have_values_of_levels"):
        compose("train", words)
    compose("train", [*words, "objective.levels=null", "likelihood=bound"])
    noted = capsys.readouterr().err
    assert "likelihood=ode measures the density that is trained" in noted
    assert "[densities_are_measured_by_the_ode]" in noted


@pytest.mark.slow  # the stage is checked as a run of its own
def test_stored_latents_are_refused():
    train = 'autoencoder.model.train=["model=autoencoder_kl","autoencoder.model=null"]'
    words = ["model=ldm", "dataset.dequantise=true", train]
    with pytest.raises(UserError, match=r"use autoencoder.cache=false.*stored_latents_are_of_fixed_samples"):
        compose("train", words)
    compose("train", [*words, "autoencoder.cache=false"])


def stream_of(samples, seed):
    """Return the training batches of samples, whose order and random changes a seed determines."""
    return TrainingStream(samples, Shuffled(len(samples), seed), seed=seed)
