"""Runs of latent diffusion find or train their first stage and keep its latents."""

from pathlib import Path

import linear
import pytest
import torch
from composing import composed

import diffsweep.runs.training as training
from diffsweep.autoencoders import FirstStage
from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.runs.latents import keep_latents
from diffsweep.runs.stages import resolve_stages
from diffsweep.runs.training import train

TINY = ("autoencoder.network.channels=8", "backbone.channels=8", "dataset.batch_size=16")


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, configure):
    """A finished run of an autoencoder."""
    directory = tmp_path_factory.mktemp("latent") / "autoencoder"
    train(configure(directory, "model=autoencoder_kl", "metrics=none", *TINY[:1]))
    return directory


def test_the_first_stage_is_trained_once_and_found(configure, tmp_path, capsys):
    for name in ("one", "two"):
        cfg = configure(tmp_path / name, "model=ldm", *TINY)
        train(cfg)
        assert Path(cfg.autoencoder.run).parent == tmp_path / "stages"
    out = capsys.readouterr().out
    assert out.count("needs and first trains autoencoder_kl") == 1
    assert out.count("was trained before") == 1
    assert len(list((tmp_path / "stages").glob("autoencoder_kl_*"))) == 1
    other = configure(tmp_path / "three", "model=ldm", *TINY, "autoencoder.channels=1")
    train(other)
    assert len(list((tmp_path / "stages").glob("autoencoder_kl_*"))) == 2


def test_the_autoencoder_is_that_of_the_given_run(configure, tmp_path, first_stage):
    """Its sizes need not be typed again, and typed sizes that differ are refused."""
    cfg = configure(tmp_path / "run", "model=ldm", "backbone.channels=8", f"autoencoder.run={first_stage}")
    assert cfg.autoencoder.network.channels == 8
    preflight(cfg)
    with pytest.raises(
        UserError, match=r"autoencoder.run=.*autoencoder.channels=2.*autoencoder.channels=4.*stages_match_the_space"
    ):
        preflight(configure(tmp_path / "run", "model=ldm", f"autoencoder.run={first_stage}", "autoencoder.channels=4"))


def test_latents_are_kept_and_equal_those_of_the_pixels(configure, tmp_path, first_stage):
    cfg = configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={first_stage}")
    model, data = build_model(cfg), build_data(cfg)
    on_the_fly = model.autoencoder.encode(data.split("train")["x"])
    assert model.autoencoder.weights_hash
    keep_latents(cfg, model, data)
    batch = next(iter(data.train_dataloader()))
    assert "x" not in batch
    kept = model.autoencoder.of(batch)
    pixels = next(iter(build_data(cfg).train_dataloader()))
    torch.testing.assert_close(kept, model.autoencoder.of(pixels), rtol=0, atol=1e-6)
    assert torch.equal(batch["label"], pixels["label"])
    whole = data.loader_samples("train")
    torch.testing.assert_close(whole[torch.arange(len(whole))]["posterior"], on_the_fly, rtol=0, atol=1e-6)
    held_out = next(iter(data.val_dataloader()))
    assert "x" not in held_out
    assert len(held_out["index"]) == len(held_out["posterior"])


@pytest.mark.slow
def test_training_on_kept_latents_calls_no_encoder(configure, tmp_path, first_stage, monkeypatch):
    cfg = configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={first_stage}")
    train(cfg)  # keeps the latents
    monkeypatch.setattr(FirstStage, "posterior", lambda self, x: pytest.fail("the encoder was called"))
    train(configure(tmp_path / "again", "model=ldm", *TINY, f"autoencoder.run={first_stage}"))


def test_the_identity_as_first_stage_trains_as_pixels_do(configure, tmp_path, monkeypatch, checkpoint):
    """The weights agree bit for bit, through the file of latents."""
    train(configure(tmp_path / "pixels", "backbone.channels=8"))

    def latent(cfg):
        model = build_model(cfg)
        model.autoencoder = FirstStage(1, 8, 1, lambda: linear.Perfect(factor=1), lambda: linear.Perfect(factor=1))
        return model

    monkeypatch.setattr(training, "build_model", latent)
    train(configure(tmp_path / "latents", "backbone.channels=8"))
    pixels, latents = (checkpoint(tmp_path / name)["state_dict"] for name in ("pixels", "latents"))
    assert all(torch.equal(weight, latents[name]) for name, weight in pixels.items())
    assert list((tmp_path).glob("**/latents-*"))


@pytest.mark.slow  # several autoencoders
def test_latents_have_a_file_for_each_autoencoder_and_form(configure, tmp_path, first_stage):
    places = ("paths.cache_dir=" + str(tmp_path / "cache"), f"autoencoder.run={first_stage}")
    for overrides in ((), ("autoencoder.latents=posterior",)):
        cfg = configure(tmp_path / "run", "model=ldm", *TINY, *places, *overrides)
        keep_latents(cfg, build_model(cfg), build_data(cfg))
    files = list((tmp_path / "cache").glob("latents-*"))
    assert len(files) == 2
    cfg = configure(tmp_path / "run", "model=ldm", *TINY, *places)
    model = build_model(cfg)
    model.autoencoder.trained.decoder.conv_out.bias.data += 1  # of the same run, but changed
    try:
        keep_latents(cfg, model, build_data(cfg))
        assert len(list((tmp_path / "cache").glob("latents-*"))) == 3
    finally:
        model.autoencoder.trained.decoder.conv_out.bias.data -= 1


def test_latents_of_another_autoencoder_are_refused(configure, tmp_path, first_stage, monkeypatch):
    """They are given by their folder, and refused before training."""
    cfg = configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={first_stage}")
    model = build_model(cfg)
    keep_latents(cfg, model, build_data(cfg))
    (made,) = Path(cfg.paths.cache_dir).glob("latents-*")
    made.rename(tmp_path / "mine")
    overrides = ("model=ldm", *TINY, f"autoencoder.run={first_stage}", f"autoencoder.cache_dir={tmp_path / 'mine'}")
    good = configure(tmp_path / "run", *overrides)
    keep_latents(good, build_model(good), build_data(good))
    monkeypatch.setattr(FirstStage, "weights_hash", "0" * 64)
    other = build_model(good)
    with pytest.raises(UserError, match=r"autoencoder.cache_dir=.*another autoencoder"):
        keep_latents(good, other, build_data(good))


@pytest.mark.slow  # commands in latents
def test_samples_are_images_and_edits_go_through_the_latents(configure, tmp_path, first_stage, command):
    train(configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={first_stage}"))
    done = command("sample", f"run={tmp_path / 'run'}", "num_samples=4", "sampler.steps=2", "output=out")
    assert done.code == 0, done.err
    import numpy as np

    assert np.load("out/samples.npz")["arr_0"].shape == (4, 8, 8, 1)
    edit = ("task=edit", "task.source=data", "sampler=ddim", "sampler.steps=4")
    done = command("sample", f"run={tmp_path / 'run'}", "num_samples=4", *edit, "sampler.start=0.5", "output=edit")
    assert done.code == 0, done.err
    assert Path("edit/edit.png").is_file()


def test_an_unfinished_first_stage_is_refused(configure, tmp_path, first_stage):
    import shutil

    shutil.copytree(first_stage, tmp_path / "half")
    (tmp_path / "half/checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match=r"autoencoder.run=.*unfinished"):
        preflight(configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={tmp_path / 'half'}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=ldm", "autoencoder.factor=3"), "autoencoder.factor"),
        (("model=ldm", "autoencoder.factor=16"), "autoencoder.factor"),
        (("model=ldm", "sampler.clip=static"), "use autoencoder=identity, or sampler.clip=none"),
        (("model=ldm", "likelihood=bound"), "use autoencoder=identity, or likelihood=none"),
        (("model=ldm", "autoencoder.run=nowhere"), "autoencoder.run=nowhere"),
        (
            ("model=autoencoder_kl", "autoencoder.run=nowhere"),
            "resume=RUN.*autoencoder_run_is_for_latent_diffusion",
        ),
        (("discriminator=patch",), "use model=ldm, or model=autoencoder_kl"),
        (("autoencoder=public",), "autoencoder.model.path"),
        (("model=autoencoder_kl", "autoencoder=identity"), "nothing to learn.*trained_autoencoder_has_a_network"),
    ],
)
def test_incompatible_choices_are_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        preflight(composed("train", *overrides, "logger=csv"))
    assert "\n" not in str(error.value)


def test_a_run_of_another_model_is_no_first_stage(configure, tmp_path, finished):
    with pytest.raises(UserError, match="is of class DiffusionModel, and class AutoencoderModel is required"):
        preflight(configure(tmp_path / "run", "model=ldm", f"autoencoder.run={finished}"))


def test_pixels_are_used_where_latents_are_not_kept(configure, tmp_path, first_stage):
    cfg = configure(tmp_path / "run", "model=ldm", *TINY, f"autoencoder.run={first_stage}", "autoencoder.cache=false")
    data = build_data(cfg)
    keep_latents(cfg, build_model(cfg), data)
    assert "x" in next(iter(data.train_dataloader()))
    resolve_stages(cfg, lambda stage: pytest.fail("nothing is to be trained"))
