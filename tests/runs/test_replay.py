"""A batch that made a loss NaN is computed again from the run's directory, with the same samples."""

import re

import pytest
import torch

from diffsweep.callbacks import LossIsNaN
from diffsweep.configuration.compose import compose
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel
from diffsweep.runs.training import train

BAD = 3 * 32 + 5  # the position of the sample that is broken, in the fourth batch


@pytest.fixture
def broken(monkeypatch):
    """A model whose loss is NaN for one sample of the training stream; the losses of all batches are recorded."""
    original, seen = DiffusionModel.losses, []

    def losses(self, batch):
        found = original(self, batch)
        bad = torch.where(batch["position"] == BAD, float("nan"), 1.0)
        seen.append((found.losses.detach().clone(), found.t))
        return found._replace(losses=found.losses * bad)

    monkeypatch.setattr(DiffusionModel, "losses", losses)
    return seen


def test_the_batch_that_failed_is_named_and_replayed(broken, tmp_path, configure, checkpoint, capsys):
    """The message names step and positions; the last checkpoint is the good one; the replay finds the sample."""
    run = tmp_path / "run"
    words = (
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=50",
        "trainer.max_steps=8",
        "backbone.dropout=0.2",
    )
    with pytest.raises(LossIsNaN, match=r"in step 4, batch of positions 96 to 127 .*nonfinite\.ckpt"):
        train(configure(run, *words))
    assert checkpoint(run)["global_step"] == checkpoint(run, "best")["global_step"] == 2
    first, times = broken[-1]
    capsys.readouterr()
    loss = train(compose("train", ["debug=replay", f"run={run}"]))
    again, t = broken[-1]
    assert torch.equal(again, first)  # weights, noise, times and dropout are those of the step
    assert torch.equal(t, times)
    assert loss != loss
    printed = capsys.readouterr().out
    assert "step 4 of" in printed
    assert re.search(rf"1 of 32 losses are bad\n +position {BAD}, t = [\d.e-]+: loss nan\n", printed)
    assert "first layer whose output is not finite: none" in printed


def test_a_run_that_has_not_failed_cannot_be_replayed(finished):
    with pytest.raises(UserError, match=r"nonfinite\.ckpt does not exist: give a run"):
        train(compose("train", ["debug=replay", f"run={finished}"]))


def test_a_run_is_not_trained_by_run(finished):
    with pytest.raises(UserError, match="has a run already; use resume="):
        train(compose("train", [f"run={finished}"]))
