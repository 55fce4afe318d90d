"""The held-out loss by noise level: its means and errors, its file, and a resumed run."""

import csv

import numpy as np
import pytest
import torch

from diffsweep.callbacks import LossByTime
from diffsweep.callbacks.loss_by_time import COLUMNS, read_rows, sums_by_interval
from diffsweep.runs.training import train

LOSSES = ("+callbacks.loss_by_t._target_=diffsweep.callbacks.LossByTime", "+callbacks.loss_by_t.intervals=5")


def test_sums_are_those_of_each_interval_with_its_right_end():
    t = torch.tensor([0.0, 0.1, 0.2, 0.2000001, 0.6, 0.601, 1.0])
    losses = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    count, total, squares = sums_by_interval(losses, t, 5)
    assert count.tolist() == [4, 0, 1, 1, 1]  # 0.2000001 is 0.2 in single precision
    assert total.tolist() == [10, 0, 5, 6, 7]
    assert squares.tolist() == [30, 0, 25, 36, 49]


@pytest.mark.slow
def test_a_run_writes_the_loss_by_time_that_its_validation_logs(tmp_path, configure, resume):
    """The mean over intervals, weighted by samples, is val/loss of each validation; resuming continues the file."""
    here = (*LOSSES, f"+callbacks.loss_by_t.folder={tmp_path / 'run'}")
    train(configure(tmp_path / "run", *here))
    rows = read_rows(tmp_path / "run" / "loss_by_t.csv")
    assert tuple(rows[0]) == COLUMNS
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = {int(row["step"]): float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}
    steps = sorted({row["step"] for row in rows})
    assert steps == [2, 4]
    for step, loss in zip(steps, logged.values(), strict=True):
        curve = [row for row in rows if row["step"] == step]
        assert [row["t_to"] for row in curve] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
        weights = [row["samples"] for row in curve]
        assert np.average([row["loss"] for row in curve], weights=weights) == pytest.approx(loss, rel=1e-5)
        assert sum(weights) >= 32
    assert (tmp_path / "run" / "loss_by_t.png").stat().st_size > 5000
    train(resume(tmp_path / "run", "trainer.max_steps=6"))
    continued = read_rows(tmp_path / "run" / "loss_by_t.csv")
    assert continued[: len(rows)] == rows
    assert {row["step"] for row in continued} == {2, 4, 6}


def test_standard_errors_are_those_of_the_mean(tmp_path):
    callback = LossByTime(str(tmp_path), intervals=2)
    losses, t = torch.rand(40).double(), torch.linspace(0.01, 0.5, 40).double()
    callback._write(3, sums_by_interval(losses, t, 2).tolist())
    (row,) = read_rows(tmp_path / "loss_by_t.csv")  # the empty interval has no row
    assert row["loss_se"] == pytest.approx(float(losses.std() / 40**0.5), rel=1e-6)
    with pytest.raises(ValueError, match="intervals must be at least 1, not 0"):
        LossByTime(str(tmp_path), intervals=0)
