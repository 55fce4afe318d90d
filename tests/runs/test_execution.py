"""Runs whose networks are compiled: their checkpoints, resuming across the switch, and samples."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffsweep.callbacks.checkpoints import read_checkpoint
from diffsweep.runs.api import compose, load, train

SMALL = ("backbone=dit", "backbone.depth=2", "backbone.channels=16", "backbone.num_heads=2", "dataset.batch_size=8")
QUICK = ("logger=csv", "callbacks=minimal", "metrics=none", "trainer=cpu", "sampler=ddim", "sampler.steps=2")
SRC = Path(__file__).resolve().parents[2] / "src"
COMPILED = ("execution=compiled_blocks", "execution.backend=aot_eager")


@pytest.fixture(autouse=True)
def nothing_compiled():
    yield
    torch._dynamo.reset()


def run(folder, steps, *more):
    words = [*SMALL, *QUICK, f"trainer.max_steps={steps}", f"hydra.run.dir={folder}", *more]
    return train(compose("train", words)).run


def weights(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.slow
def test_a_compiled_run_is_read_resumed_and_sampled_by_one_that_is_not_and_the_other_way(tmp_path):
    plain = run(tmp_path / "plain", 4)
    folders = {}
    for name, first, then in (("begun", COMPILED, ("execution=eager",)), ("ended", (), COMPILED)):
        folders[name] = run(tmp_path / name, 2, *first)
        train(compose("train", [f"resume={folders[name]}", "trainer.max_steps=4", *then]))
        expected, found = weights(plain), weights(folders[name])
        assert list(found) == list(expected)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    samples = load(plain).sample(4, seed=1)
    for folder, words in ((plain, COMPILED), (folders["ended"], ("execution=eager",))):
        torch.testing.assert_close(load(folder, words).sample(4, seed=1), samples, rtol=0, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["compiled", "compiled_blocks"])
def test_two_processes_train_compiled_networks_as_one_does(tmp_path, environment, execution):
    """With gradient checkpointing and averaged weights, whose metrics are of batches of 16, 16 and 8 samples."""
    more = (f"execution={execution}", "execution.backend=aot_eager", "backbone.checkpointing=true")
    measured = ("metrics=digits", "metrics.num_samples=40", "metrics.batch_size=16", "metrics.reference=train")
    few = [*SMALL, *QUICK, *more, "verify=false", "trainer.max_steps=3", f"paths.cache_dir={tmp_path / 'cache'}"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "dataset.batch_size=4"]

    def done(script, *words):
        line = [sys.executable, SRC / script, *map(str, words)]
        found = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert found.returncode == 0, found.stderr[-3000:]
        assert "cannot compile" not in found.stderr

    done("train.py", *few, *two, *measured, f"paths.run_dir={tmp_path / 'two'}")
    run(tmp_path / "one", 3, "backbone.checkpointing=true")
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-3, atol=1e-4)
    trained = numbers(tmp_path / "two/metrics.json")
    for name, words in {"compiled": ["trainer=cpu"], "eager": ["trainer=cpu", "execution=eager"]}.items():
        done("evaluate.py", f"run={tmp_path / 'two'}", f"output={tmp_path / name}", *words)
        found = numbers(tmp_path / name / "metrics.json")
        assert found.keys() <= trained.keys()
        assert all(found[key] == pytest.approx(trained[key], rel=1e-2, abs=1e-2) for key in found), (found, trained)


def numbers(file):
    found = json.loads(file.read_text())["metrics"]
    return {name: value for name, value in found.items() if not name.endswith("per_second")}
