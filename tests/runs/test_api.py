"""The names that ``import diffsweep`` gives."""

import subprocess
import sys

import pytest
import torch

import diffsweep
from diffsweep.errors import UserError


def test_train_and_load_are_what_the_commands_do(fast, tmp_path):
    places = (f"hydra.run.dir={tmp_path / 'run'}", f"paths.output_dir={tmp_path}")
    cfg = diffsweep.compose("train", [*fast, *places, "model=classifier_free", "trainer.max_steps=2"])
    run, metric = diffsweep.train(cfg)
    assert run == tmp_path / "run"
    assert metric > 0
    loaded = diffsweep.load(run, ["sampler=ddim", "sampler.steps=2"])
    assert not loaded.model.training
    x = loaded.sample(3, seed=1, labels=[3])
    assert x.shape == (3, 1, 8, 8)
    torch.testing.assert_close(loaded.sample(5, seed=1, labels=["three"])[:3], x, rtol=0, atol=1e-4)
    _, cond = loaded.model.request(torch.arange(3), None)
    assert cond.vector.tolist() == [0, 1, 2]  # the model is as it was
    for wrong, expected in (({"labels": [12]}, "no class 12"), ({"label": [1]}, "did you mean labels")):
        with pytest.raises(UserError, match=expected):
            loaded.sample(1, **wrong)
    with pytest.raises(UserError, match="already"):
        diffsweep.train(cfg)


def test_the_rules_hold_as_on_the_command_line(fast):
    with pytest.raises(UserError, match="no signal left"):
        diffsweep.compose("train", ["schedule.zero_terminal_snr=true", *fast])
    cfg = diffsweep.compose("train", fast)
    cfg.schedule.zero_terminal_snr = True
    with pytest.raises(UserError, match="no signal left"):
        diffsweep.train(cfg)
    with pytest.raises(UserError, match="did you mean linear"):
        diffsweep.compose("train", ["schedule=lineer"])
    with pytest.raises(UserError, match="no such folder"):
        diffsweep.load("nowhere")


def test_importing_it_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", "import diffsweep, sys; print(sorted(sys.modules)); diffsweep.nothing"],
        capture_output=True, text=True, env={"PYTHONPATH": "src"},
    )  # fmt: skip
    assert "'torch'" not in done.stdout
    assert "has no attribute 'nothing'" in done.stderr
