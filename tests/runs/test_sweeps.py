"""Sweeps: many runs from one line, each in its directory, which are continued and not repeated."""

import csv
import importlib.util
import json
import math
from pathlib import Path

import pytest

from diffsweep.models import DiffusionModel
from diffsweep.runs import training

NAMES = ["0_schedule-linear_seed-0", "1_schedule-linear_seed-1", "2_schedule-cosine_seed-0", "3_schedule-cosine_seed-1"]
SWEEP = ("schedule=linear,cosine", "seed=0,1")
FEW = ("trainer.max_steps=1",)


def directories():
    return sorted(path.parent for path in Path("outputs/sweeps").glob("*/*/config.yaml"))


@pytest.fixture
def results(monkeypatch):
    """The numbers that the jobs of a sweep return, in their order."""
    returned, original = [], training.train

    def train(cfg):
        returned.append(None)
        returned[-1] = original(cfg)
        return returned[-1]

    monkeypatch.setattr(training, "train", train)
    return returned


def test_each_job_has_its_directory_and_returns_a_number(command, fast, results):
    """-m may stand in the middle of the line."""
    done = command("train", SWEEP[0], "-m", SWEEP[1], *fast, *FEW)
    assert done.code == 0, done.err
    found = directories()
    assert [path.name for path in found] == NAMES
    assert len({path.parent for path in found}) == 1
    assert not {"=", ","} & set("".join(map(str, found)))
    assert len(results) == 4
    assert all(type(result) is float and math.isfinite(result) for result in results)
    assert len(set(results)) == 4


def test_the_same_sweep_again_reuses_what_has_finished(command, fast, results):
    measured = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
    arguments = ("-m", "seed=0,1", *fast, *FEW, *measured)
    assert command("train", *arguments).code == 0
    found, first = directories(), list(results)
    content = {path: path.read_bytes() for folder in found for path in folder.rglob("*") if path.is_file()}
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert results[2:] == first
    assert directories() == found
    assert {path: path.read_bytes() for folder in found for path in folder.rglob("*") if path.is_file()} == content
    assert done.out.count("has finished before") == 2
    numbers = [json.loads((folder / "metrics.json").read_text())["metrics"]["fid"] for folder in found]
    assert numbers == first


def test_a_sweep_without_metrics_again(command, fast, results):
    """A job that finished keeps its result, with or without metrics.json; one that never saved begins again."""
    arguments = ("-m", "seed=0,1", *fast, *FEW)
    assert command("train", *arguments).code == 0
    (directories()[0] / "metrics.json").write_text('{"metrics": {"fid": 1.0}}')
    for path in (directories()[1] / "checkpoints").iterdir():
        path.unlink()
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert (directories()[1] / "checkpoints" / "last.ckpt").exists()
    (directories()[0] / "metrics.json").unlink()
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert results[2] == 1.0
    assert results[3:] == pytest.approx([results[1], *results[:2]], rel=1e-6)


def test_m_at_the_end_is_the_same_sweep_and_a_run_alone_has_no_group_after_it(command, fast, monkeypatch):
    monkeypatch.setattr(training, "train", lambda cfg: (training.claim(cfg), 0.0)[1])
    assert command("train", "-m", "schedule=linear,cosine", *fast, *FEW).code == 0
    # It is refused, since the directories are the same and taken.
    assert command("train", "schedule=linear,cosine", *fast, *FEW, "-m").code == 2
    assert [path.name for path in directories()] == ["0_schedule-linear", "1_schedule-cosine"]
    assert command("train", *fast, *FEW, "hydra.run.dir=alone").code == 0
    assert all("sweep: train_" in (folder / "config.yaml").read_text() for folder in directories())
    assert "sweep: null" in (Path("alone") / "config.yaml").read_text()


def test_a_stopped_sweep_is_continued(command, fast, monkeypatch, results):
    """The first job has finished, the second was stopped at step 3 of 4 and is resumed, the third is begun."""
    arguments = ("-m", "seed=0,1,2", *fast, "trainer.log_every_n_steps=1")
    original, count = DiffusionModel.training_step, []

    def training_step(self, *rest):
        count.append(self.global_step)
        if len(count) == 7:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *rest)

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    assert command("train", *arguments).code == 143
    assert count == [0, 1, 2, 3, 0, 1, 2]
    (Path(directories()[0]) / "metrics.json").write_text('{"metrics": {"fid": 1.5}}')
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert count[7:] == [3, 0, 1, 2, 3]
    for folder in directories()[1:]:
        with (folder / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert steps[-1] == 4
    assert results[2] == 1.5


def test_one_failing_job_does_not_stop_the_others(command, fast):
    done = command(
        "train", "-m", "optimizer.lr=0.001,1e30,0.002", "lr_scheduler.warmup_steps=0", *fast, "trainer.max_steps=2"
    )
    saved = [(folder / "checkpoints" / "last.ckpt").exists() for folder in directories()]
    assert (len(saved), saved[0], saved[2]) == (3, True, True)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "NaN" in line
    assert "Traceback" not in done.err


def test_jobs_share_a_group_and_are_finished_one_by_one(command, fast, monkeypatch):
    wandb = pytest.importorskip("wandb")
    begin, end, events = wandb.init, wandb.finish, []
    monkeypatch.setattr(wandb, "init", lambda **keywords: (events.append(keywords), begin(**keywords))[1])
    monkeypatch.setattr(wandb, "finish", lambda exit_code=None: (events.append(exit_code), end(exit_code=exit_code)))
    done = command("train", "-m", "seed=0,1", *fast, *FEW, "logger=wandb")
    assert done.code == 0, done.err
    first, ended, second, ended_too = events
    assert (ended, ended_too) == (0, 0)
    assert first["group"] == second["group"] == directories()[0].parent.name
    assert first["id"] != second["id"]
    assert [event["config"]["seed"] for event in (first, second)] == [0, 1]
    for folder in directories():
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"), reason="not installed")
def test_joblib_runs_jobs_side_by_side(process, fast, tmp_path):
    done = process(
        "train", "-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *fast, *FEW, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.parent for path in tmp_path.glob("outputs/sweeps/*/*/config.yaml"))
    assert [path.name for path in found] == ["0_seed-0", "1_seed-1"]
    assert all((path / "checkpoints" / "last.ckpt").exists() for path in found)
