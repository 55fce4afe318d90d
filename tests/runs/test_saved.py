"""Runs that were saved under former names of classes can be loaded and continued."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_object

from diffsweep.configuration.moved import MOVED, renamed
from diffsweep.configuration.saved import load_config

BEFORE = Path(__file__).parent / "before"


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


def test_a_run_from_before_the_move_can_be_resumed(command, checkpoint):
    shutil.copytree(BEFORE / "weak", "weak")  # the command runs in an empty folder
    done = command("train", "resume=weak", "trainer.max_steps=2")
    assert done.code == 0, done.err
    assert checkpoint("weak")["global_step"] == 2
