"""Runs that were saved under former names of classes can be loaded and continued."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch.nn import functional

from diffsweep.configuration.conf import settings
from diffsweep.configuration.moved import MOVED, in_new_names, renamed
from diffsweep.configuration.saved import load_config

BEFORE = Path(__file__).parent / "before"
OPTIONS = {"low_res": "downsample", "grey": "grey", "hole": "mask_box"}


def test_every_former_name_is_gone_and_its_new_one_exists():
    for name, now in MOVED.items():
        assert now not in MOVED
        get_object(now)
        with pytest.raises(Exception, match=name.rpartition(".")[2]):
            get_object(name)


def test_names_are_read_at_any_depth_and_other_values_left_alone():
    old, now = next(iter(MOVED.items()))
    node = {"a": [{"_target_": old, "kind": old, "name": old}], "_target_": "x"}
    assert renamed(node) == {"a": [{"_target_": now, "kind": now, "name": old}], "_target_": "x"}


def test_a_run_from_before_the_move_loads_and_draws_what_it_drew(command, tmp_path):
    """It was trained, guided by a weaker model of its own, and sampled by the version before."""
    text = (BEFORE / "guided" / "config.yaml").read_text()
    assert sum(name in text for name in MOVED) == 2
    assert load_config(BEFORE / "guided").model._target_ == "diffsweep.models.DiffusionModel"
    out = tmp_path / "out"
    done = command(
        "sample", f"run={BEFORE / 'guided'}", f"guidance.weak.run={BEFORE / 'weak'}", "num_samples=4", f"output={out}"
    )
    assert done.code == 0, done.err
    drawn, before = (np.load(path)["arr_0"].astype(int) for path in (out / "samples.npz", BEFORE / "samples.npz"))
    assert np.abs(drawn - before).max() <= 1


def test_a_run_of_the_former_kinds_of_degraded_images_loads_and_draws_what_it_drew(command, tmp_path):
    """It fills a hole in the middle, of a quarter of the image's side; the version before trained and sampled it."""
    assert "source: hole" in (BEFORE / "image" / "config.yaml").read_text()
    out = tmp_path / "out"
    done = command("sample", f"run={BEFORE / 'image'}", "num_samples=4", f"output={out}")
    assert done.code == 0, done.err
    drawn, before = (np.load(p)["arr_0"].astype(int) for p in (out / "samples.npz", BEFORE / "image" / "samples.npz"))
    assert np.abs(drawn - before).max() <= 1


def test_former_kinds_of_degraded_images_are_the_degradations_of_today():
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    hole = x.clone()
    hole[:, :, 3:5, 3:5] = 0
    expected = {
        "low_res": functional.interpolate(functional.avg_pool2d(x, 4), size=(8, 8), mode="bilinear"),
        "grey": x.mean(1, keepdim=True).expand_as(x),
        "hole": hole,
    }
    old = {"_target_": "diffsweep.conditioning.ImageConditioning", "channels": 3, "image_size": 8}
    for source, image in expected.items():
        now = in_new_names({"conditioning": {**old, "source": source, "factor": 4}, "choices": {"model": "ddpm"}})
        assert now["choices"] == {"model": "ddpm", "degradation": OPTIONS[source]}
        assert set(settings("degradation", OPTIONS[source])) >= now["degradation"].keys()
        conditioning = instantiate(OmegaConf.create(now).conditioning)
        torch.testing.assert_close(conditioning({"x": x}).image, image, rtol=0, atol=1e-6)
    assert in_new_names({"conditioning": {**old, "dropout": 0.1}})["conditioning"] == {**old, "dropout": 0.1}


def test_former_kinds_of_degraded_images_are_read_on_a_command_line(compose, capsys):
    cfg = compose("conditioning=image", "conditioning.source=hole")
    assert cfg.choices.degradation == "mask_box"
    assert cfg.degradation.place == "centre"
    cfg = compose("conditioning=image", "conditioning.factor=4")
    assert cfg.degradation.factor == 4
    assert "NOTE: conditioning.factor is degradation.factor now" in capsys.readouterr().err


def test_a_run_from_before_the_move_can_be_resumed(command, checkpoint):
    shutil.copytree(BEFORE / "weak", "weak")  # the command runs in an empty folder
    done = command("train", "resume=weak", "trainer.max_steps=2")
    assert done.code == 0, done.err
    assert checkpoint("weak")["global_step"] == 2
