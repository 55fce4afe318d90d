"""A run on two processes equals a run of one process with twice the batch, and each goes on as the other.

They share all that is keyed by the position of a sample: its place in the order of the data, t, eps and whether its
class is dropped. What differs is the order in which losses and gradients are summed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from keyed_runs import SPEED, STEPS, WORDS
from omegaconf import OmegaConf

from diffsweep.runs.resuming import batch_note
from diffsweep.runs.training import train

SRC = Path(__file__).resolve().parents[2] / "src"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configure, environment, fast):
    """The directories of two runs of six steps: of two processes, and of one with twice the batch."""
    folder = tmp_path_factory.mktemp("runs")
    two = ("trainer=ddp", "trainer.accelerator=cpu", "dataset.batch_size=16", f"paths.output_dir={folder / 'a'}")
    line = [sys.executable, SRC / "train.py", *fast, *WORDS, STEPS, *two, f"paths.run_dir={folder / 'two'}"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    train(configure(folder / "one", *WORDS, STEPS))
    return folder / "two", folder / "one"


def test_each_step_and_each_validation_has_the_same_numbers(runs, history):
    """Losses and their means by quarter of t, norms of gradients, and what is measured at the end."""
    two, one = (history(run) for run in runs)
    assert [row["step"] for row in two] == [str(step) for step in range(1, 7)]
    assert {name for row in one for name, value in row.items() if value} >= {"train/loss_q4", "val/x0_mse", "eval/fid"}
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - SPEED:
            assert bool(ours[name]) == bool(theirs[name]), name
            if ours[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5, abs=1e-7), (ours["step"], name)


def test_weights_averages_and_the_sampler_of_times_are_the_same(runs, checkpoint):
    two, one = (checkpoint(run) for run in runs)
    assert (two["position"], two["global_step"]) == (one["position"], one["global_step"]) == (192, 6)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(two["ema"], one["ema"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(two["loss_sums"], one["loss_sums"], rtol=1e-5, atol=1e-5)
    counts = two["state_dict"]["time_sampling.counts"]
    assert torch.equal(counts, one["state_dict"]["time_sampling.counts"])
    assert int(counts.sum()) == 192  # a loss of each sample of both processes
    assert int(counts.min()) >= 2  # so times were drawn by importance


def test_samples_and_metrics_are_the_same_and_one_run_is_made(runs, tmp_path, command):
    import numpy as np

    two = runs[0]
    files = [sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) for run in runs]
    assert files[0] == files[1]
    assert not (two.parent / "a" / "train").exists()
    measured = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert measured[0]["protocol_id"] == measured[1]["protocol_id"]
    drawn = []
    for run in runs:
        out = tmp_path / run.name
        done = command("sample", f"run={run}", "num_samples=6", "seed=3", "sampler.steps=4", f"output={out}")
        assert done.code == 0, done.err
        with np.load(out / "samples.npz") as file:
            drawn.append(file["samples"] if "samples" in file else file[file.files[0]])
    assert drawn[0].std() > 0
    np.testing.assert_allclose(drawn[0].astype(float), drawn[1].astype(float), rtol=1e-4, atol=1e-3)


def test_one_process_goes_on_where_two_were(runs, tmp_path, resume, checkpoint, capsys):
    """Batches are accumulated: what is typed is what the run prints, and it is then the run of one process."""
    two, one = (Path(shutil.copytree(run, tmp_path / run.name)) for run in runs)
    more = ("trainer.max_steps=8", "metrics=none")
    cfg = resume(two, "trainer=cpu", *more)
    note = batch_note(OmegaConf.load(two / "config.yaml"), cfg)
    assert note == "a step has 16 samples on 1 device, and had 32; trainer.accumulate_grad_batches=2 keeps 32"
    train(resume(two, "trainer=cpu", "trainer.accumulate_grad_batches=2", *more))
    assert "resumes at step 6" in capsys.readouterr().out
    train(resume(one, *more))
    ours, theirs = checkpoint(two), checkpoint(one)
    assert ours["position"] == theirs["position"] == 256
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours["ema"], theirs["ema"], rtol=1e-3, atol=1e-5)
