"""Runs whose networks are compiled: their checkpoints, resuming across the switch, and samples."""

import pytest
import torch

from diffsweep.callbacks.checkpoints import read_checkpoint
from diffsweep.runs.api import compose, load, train

SMALL = ("backbone=dit", "backbone.depth=2", "backbone.channels=16", "backbone.num_heads=2", "dataset.batch_size=8")
QUICK = ("logger=csv", "callbacks=minimal", "metrics=none", "trainer=cpu", "sampler=ddim", "sampler.steps=2")
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
