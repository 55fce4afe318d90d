"""Tests of the space that the latents of a trained autoencoder are."""

import contextlib
import copy

import linear
import pytest
import torch

from diffsweep.autoencoders import FirstStage
from diffsweep.datasets import load_digits
from diffsweep.diffusion import Noise
from diffsweep.precision import precision_of


def first_stage(trained, **options):
    channels, size, _ = trained.shape
    return FirstStage(channels, size, trained.factor, lambda: copy.deepcopy(trained), lambda: trained, **options)


@pytest.fixture
def x():
    return load_digits("train")["x"][:32]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_decoding_inverts_encoding(x, factor):
    space = first_stage(linear.Perfect(factor=factor, gain=4.0))
    z = space.encode(x)
    assert z.shape[1:] == space.shape == (factor**2, 8 // factor, 8 // factor)
    torch.testing.assert_close(space.decode(z), x, rtol=0, atol=1e-6)


def test_standardised_latents_have_mean_0_and_deviation_1(x):
    trained = linear.Perfect(gain=3.0)
    h = trained.encode(x).double()
    mean = h.mean((0, 2, 3))
    std = (h - mean[:, None, None]).square().mean().sqrt()
    trained.standardise(mean, std)
    z = first_stage(trained).encode(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(first_stage(trained).decode(z), x, rtol=0, atol=1e-5)


def test_latents_are_the_mean_or_draws_of_the_posterior(x):
    trained, noise = linear.Perfect(spread=0.3), Noise(0, torch.arange(len(x)))
    mean, whole = first_stage(trained), first_stage(trained, latents="posterior")
    assert mean.posterior(x).shape[1] == 4
    assert whole.posterior(x).shape[1] == 8
    assert torch.equal(mean.encode(x, noise), mean.encode(x))
    assert torch.equal(whole.encode(x), mean.encode(x))
    moved = whole.encode(x, noise) - mean.encode(x)
    torch.testing.assert_close(moved / 0.3, noise.like(moved))


def test_results_do_not_depend_on_the_batch_size(x):
    trained = linear.Perfect()
    whole, sliced = first_stage(trained, batch_size=64), first_stage(trained, batch_size=5)
    z = whole.encode(x)
    assert torch.equal(sliced.encode(x), z)
    assert torch.equal(sliced.decode(z), whole.decode(z))


def test_decoding_in_tiles_gives_the_same_images(x):
    big = torch.randn(2, 1, 64, 48)
    trained = linear.Perfect(image_size=64)
    space = first_stage(trained, tile=8)
    z = space.encode(big)
    torch.testing.assert_close(space.decode(z), big, rtol=0, atol=1e-6)


def test_it_is_not_a_submodule_of_a_model_that_uses_it(x):
    """The autoencoder is in no checkpoint, optimizer or average, and computes in float32."""
    trained = linear.Perfect()
    space = first_stage(trained)
    holder = torch.nn.Sequential(space)
    space.encode(x)
    assert not list(holder.parameters())
    assert not holder.state_dict()
    holder.to(torch.bfloat16)
    z = space.encode(x).bfloat16()
    assert space.decode(z).dtype == torch.bfloat16
    assert trained.scale.dtype == torch.float32
    assert not trained.encoder.gain.requires_grad


def test_encoder_and_decoder_are_moved_only_when_used(x, monkeypatch):
    """The meta device stands for a GPU: tensors that are moved to it lose their values."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # the meta device has no autocast
    trained = linear.Perfect()
    space = first_stage(trained)
    space.encode(x)
    space.decode(torch.empty(2, *space.shape, device="meta"))
    assert trained.decoder.gain.device.type == trained.scale.device.type == "meta"
    assert trained.encoder.gain.device.type == "cpu"


def test_the_hash_depends_on_weights_and_standardisation():
    hashes = {first_stage(linear.Perfect(gain=gain)).weights_hash for gain in (1.0, 1.0, 2.0)}
    assert len(hashes) == 2
    moved = linear.Perfect()
    moved.standardise(torch.ones(4), torch.ones(()))
    assert first_stage(moved).weights_hash not in hashes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": "max"}, "mean or posterior"),
        ({"batch_size": 0}, "batch_size"),
        ({"tile": 1}, "tile"),
        ({"overlap": 1.0}, "overlap"),
        ({"levels": 17}, "levels"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        first_stage(linear.Perfect(), **options)


def test_an_autoencoder_of_other_sizes_is_refused(x):
    space = FirstStage(4, 4, 2, lambda: linear.Perfect(factor=2), lambda: linear.Perfect(factor=4))
    with pytest.raises(ValueError, match=r"autoencoder.channels=16, autoencoder.factor=4"):
        space.encode(x)
    with pytest.raises(ValueError, match="model is missing"):
        FirstStage(4, 4, 2, lambda: linear.Perfect(factor=2), None).encode(x)


def test_clips_are_encoded_frame_by_frame():
    trained = linear.Perfect(spread=0.3)
    space = first_stage(trained, num_frames=3)
    clips = torch.randn(2, 1, 3, 8, 8)
    z = space.encode(clips)
    assert z.shape[1:] == space.shape == (4, 3, 4, 4)
    for frame in range(3):
        assert torch.equal(z[:, :, frame], first_stage(trained).encode(clips[:, :, frame]))
    torch.testing.assert_close(space.decode(z), clips, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("word", "expected"), [("32-true", None), ("bf16-mixed", torch.bfloat16), ("16-mixed", None)])
def test_decoding_is_in_the_precision_of_the_run_and_encoding_is_not(x, word, expected, monkeypatch):
    """Float16, whose range decoders exceed, is left out; an autocast around it, as in training, changes nothing."""
    trained, seen = linear.Perfect(factor=2), []
    for name in ("decode", "posterior"):
        function = getattr(trained, name)

        def noted(*arguments, name=name, function=function):
            seen.append((name, torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None))
            return function(*arguments)

        monkeypatch.setattr(trained, name, noted)
    space = first_stage(trained)
    space.precision = precision_of(word)
    with torch.autocast("cpu", torch.float16):
        assert space.decode(space.encode(x)).dtype == torch.float32
    assert set(seen) == {("posterior", None), ("decode", expected)}
