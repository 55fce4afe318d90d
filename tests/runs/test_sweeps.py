"""Sweeps: many runs from one line, each in its directory, which are continued and not repeated."""

import csv
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from composing import composed

from diffsweep.models import DiffusionModel
from diffsweep.runs import training
from diffsweep.runs.manifest import JobRecord, Manifest
from diffsweep.runs.sweeps import is_current

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


@pytest.mark.slow
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


def manifest():
    """Return the manifest of the only sweep."""
    (path,) = Path("outputs/sweeps").glob("*/sweep.json")
    return json.loads(path.read_text())


def states():
    return [job["state"] for job in manifest()["jobs"]]


def test_the_same_sweep_again_keeps_what_has_finished(command, fast, results):
    """Nothing is written anew; the folder of a job that was deleted is made again, with the same numbers."""
    measured = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
    arguments = ("-m", "seed=0,1", *fast, *FEW, *measured)
    assert command("train", *arguments).code == 0
    found, first = directories(), list(results)
    content = {path: path.read_bytes() for folder in found for path in folder.rglob("*") if path.is_file()}
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert results == first
    assert {path: path.read_bytes() for folder in found for path in folder.rglob("*") if path.is_file()} == content
    assert "2 of 2 jobs of" in done.out
    assert "have finished before" in done.out
    numbers = [json.loads((folder / "metrics.json").read_text())["metrics"]["fid"] for folder in found]
    assert numbers == first == [job["result"] for job in manifest()["jobs"]]
    shutil.rmtree(found[0])
    assert command("train", *arguments).code == 0
    assert results[2:] == pytest.approx(first[:1], rel=1e-6)
    assert directories() == found


@pytest.mark.slow
def test_a_sweep_records_its_jobs_in_their_order(command, fast, monkeypatch):
    """Another order of the words is the same sweep, whose numbers stay."""
    monkeypatch.setattr(training, "train", lambda cfg: (training.claim(cfg), 0.5)[1])
    assert command("train", "-m", *SWEEP, *fast, *FEW).code == 0
    content = manifest()
    assert (content["command"], content["words"]) == ("train", [*SWEEP, *fast, *FEW])
    assert [job["name"] for job in content["jobs"]] == NAMES
    assert content["jobs"][2]["overrides"] == ["schedule=cosine", "seed=0"]
    assert {job["state"] for job in content["jobs"]} == {"finished"}
    assert all(job["seconds"] >= 0 and job["error"] is None and job["result"] == 0.5 for job in content["jobs"])
    done = command("train", *FEW, "-m", *reversed(SWEEP), *fast)
    assert done.code == 0, done.err
    assert "4 of 4 jobs of" in done.out
    assert manifest() == content


def test_a_folder_with_another_sweep_is_refused(command, fast, monkeypatch):
    monkeypatch.setattr(training, "train", lambda cfg: 0.0)
    place = "hydra.sweep.dir=mine"
    assert command("train", "-m", "seed=0,1", *fast, place).code == 0
    written = Path("mine/sweep.json").read_text()
    done = command("train", "-m", "seed=0,2", *fast, place)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: mine holds another sweep, python ")
    assert "train.py -m seed=0,1 debug=fast" in line
    assert Path("mine/sweep.json").read_text() == written
    Path("mine/sweep.json").write_text("[]")
    done = command("train", "-m", "seed=0,1", *fast, place)
    assert (done.code, done.err) == (
        2,
        "error: mine/sweep.json is no manifest of a sweep; delete it to make a new one\n",
    )


def test_jobs_that_would_share_a_folder_are_refused(command, fast):
    done = command("train", "-m", "seed=0,1", *fast, "hydra.sweep.subdir=here")
    assert done.code == 2
    assert "jobs of the sweep have the same folder, here; leave out hydra.sweep.subdir" in done.err
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_m_at_the_end_is_the_same_sweep_and_a_run_alone_has_no_group_after_it(command, fast, monkeypatch):
    monkeypatch.setattr(training, "train", lambda cfg: (training.claim(cfg), 0.0)[1])
    assert command("train", "-m", "schedule=linear,cosine", *fast, *FEW).code == 0
    assert "2 of 2 jobs of" in command("train", "schedule=linear,cosine", *fast, *FEW, "-m").out
    assert [path.name for path in directories()] == ["0_schedule-linear", "1_schedule-cosine"]
    assert command("train", *fast, *FEW, "hydra.run.dir=alone").code == 0
    assert all("sweep: train_" in (folder / "config.yaml").read_text() for folder in directories())
    assert "sweep: null" in (Path("alone") / "config.yaml").read_text()


@pytest.mark.slow  # two sweeps
def test_a_stopped_sweep_is_continued(command, fast, monkeypatch, results):
    """The first job has finished, the second was stopped at step 3 of 4 and is resumed, the third is begun."""
    arguments = ("-m", "seed=0,1,2", "trainer.log_every_n_steps=1", *fast)
    original, count = DiffusionModel.training_step, []

    def training_step(self, *rest):
        count.append(self.global_step)
        if len(count) == 7:
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *rest)

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    done = command("train", *arguments)
    assert done.code == 143
    assert count == [0, 1, 2, 3, 0, 1, 2]
    assert states() == ["finished", "preempted", "waiting"]
    typed = f"train.py {shlex.join(arguments)}"
    assert done.out.splitlines()[-1].endswith(typed)
    assert "resume=" not in done.out
    assert "stopped at step 3, saved in" in done.out
    kept = (directories()[0] / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    done = command("train", *arguments)
    assert done.code == 0, done.err
    assert count[7:] == [3, 0, 1, 2, 3]
    assert states() == ["finished"] * 3
    assert (directories()[0] / "checkpoints" / "last.ckpt").stat().st_mtime_ns == kept
    for folder in directories()[1:]:
        with (folder / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert steps[-1] == 4


@pytest.mark.slow
def test_failing_jobs_do_not_stop_the_others_and_are_tried_again(command, fast, monkeypatch):
    """One has diverged, and one has found a mistake after its first checkpoint: it resumes."""
    original, steps, mends = DiffusionModel.training_step, [], []

    def training_step(self, *rest):
        steps.append((self.trainer.optimizers[0].defaults["lr"], self.global_step))
        if steps[-1] == (0.002, 3) and not mends:
            raise ValueError("two\nlines")
        return original(self, *rest)

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    arguments = ("-m", "optimizer.lr=0.001,1e30,0.002,0.003", "lr_scheduler.warmup_steps=0", *fast)
    done = command("train", *arguments)
    saved = [(folder / "checkpoints" / "last.ckpt").exists() for folder in directories()]
    assert saved == [True, False, True, True]
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: 2 of 4 jobs failed; 1_optimizer.lr-1e-30: ")
    assert "NaN" in line
    assert done.err.count("Traceback") == 1  # of the error that nobody expects
    *_, first, second = done.out.splitlines()
    assert first.startswith("  1_optimizer.lr-1e-30: ")
    assert second == "  2_optimizer.lr-0.002: two lines"
    assert states() == ["finished", "failed", "failed", "finished"]
    assert manifest()["jobs"][2]["error"] == "two lines"
    mends.append(True)
    steps.clear()
    done = command("train", *arguments)
    assert done.code == 1
    assert states() == ["finished", "failed", "finished", "finished"]
    assert manifest()["jobs"][2]["error"] is None
    assert [step for lr, step in steps if lr == 0.002] == [2, 3]
    assert (1e30, 0) in steps
    assert {lr for lr, step in steps} == {1e30, 0.002}


OF_FEW_LEVELS = ("-m", "model=consistency", "discretisation=grid", "discretisation.levels=5")


def test_what_one_model_cannot_do_is_left_out_and_the_rest_is_run(command, fast, monkeypatch):
    """More steps than a consistency model has levels are left out, also when the line is typed again."""
    monkeypatch.setattr(training, "train", lambda cfg: float(cfg.sampler.steps))
    line = (*OF_FEW_LEVELS, *fast, *FEW, "sampler.steps=8,4")
    for _ in range(2):
        done = command("train", *line)
        assert done.code == 0, done.err
        found = [(job["name"], job["state"], job["result"]) for job in manifest()["jobs"]]
        assert found == [("1_sampler.steps-4", "finished", 4.0)]
        assert "1 of 2 jobs are left out: 0_sampler.steps-8\n  0_sampler.steps-8: sampler.steps=8 is more" in done.out


@pytest.mark.slow
def test_a_sweep_of_nothing_that_a_model_can_do_is_an_error(command, fast):
    done = command("train", *OF_FEW_LEVELS, *fast, *FEW, "sampler.steps=8,16")
    assert done.code == 2
    assert "sampler.steps=16 is more than the 4 intervals" in done.err
    assert not Path("outputs/sweeps").exists()


@pytest.mark.slow
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


@pytest.mark.slow  # a run with metrics
def test_a_quick_run_draws_few_samples_and_no_pictures_during_training(command, fast):
    """Networks and data keep their sizes; steps and samples are few, and the command line still decides."""
    cfg = composed("train", "debug=quick", "metrics.num_samples=100", "model=classifier_free")
    full = composed("train", "model=classifier_free")
    assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval, cfg.metrics.num_samples) == (50, 50, 100)
    assert "sample_grid" in set(full.callbacks) - set(cfg.callbacks)
    assert (cfg.backbone, cfg.dataset) == (full.backbone, full.dataset)
    small = ("backbone.channels=8", "trainer.max_steps=1", "logger=csv", "trainer=cpu", "metrics.is_splits=1")
    done = command("train", "debug=quick", *small, "hydra.run.dir=quick")
    assert done.code == 0, done.err
    assert not list(Path("quick/samples").glob("step_*"))
    assert Path("quick/final.png").exists()
    assert json.loads(Path("quick/metrics.json").read_text())["protocol"]["num_samples"] == 200


@pytest.mark.skipif(bool(shutil.which("srun")), reason="this is a cluster")
def test_a_launcher_that_cannot_start_jobs_is_answered_in_one_line(command, fast):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = command("train", "-m", "seed=0,1", *fast, "hydra/launcher=submitit_slurm")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert re.match("error: hydra/launcher=submitit_slurm: .*slurm cluster", line)
    assert states() == ["waiting", "waiting"]


def test_results_of_a_run_that_was_trained_further_are_made_again(tmp_path):
    job, overrides = JobRecord("0_sampler-ddim", []), {"0_sampler-ddim": [f"run={tmp_path}/run", "sampler=ddim"]}
    checkpoint, result = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / job.name / "metrics.json"
    for path, seconds in ((checkpoint, 1000), (result, 2000)):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    assert is_current(tmp_path, job, overrides)
    os.utime(checkpoint, (3000, 3000))
    assert not is_current(tmp_path, job, overrides)
    assert is_current(tmp_path, job, {job.name: ["sampler=ddim"]})
    shutil.rmtree(result.parent)
    assert not is_current(tmp_path, job, {job.name: ["sampler=ddim"]})


@pytest.mark.slow
def test_the_same_line_twice_takes_what_nobody_has(command, fast, monkeypatch):
    """Jobs that other processes run are left to them; if nothing else remains, the line is refused."""
    started = []

    def run(cfg):
        training.claim(cfg)
        started.append(cfg.seed)
        return 0.5

    monkeypatch.setattr(training, "train", run)
    arguments = ("-m", "seed=0,1", *fast)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "run", lambda self, name, work: None)
        assert command("train", *arguments).code == 0  # as if a first process had only written the manifest
    (path,) = Path.cwd().glob("outputs/sweeps/*/sweep.json")
    manifest = Manifest(path.parent)
    first = manifest.jobs[0].name
    with manifest.held(first):
        done = command("train", *arguments)
        again = command("train", *arguments)
    assert started == [1]
    assert done.code == 0, done.err
    assert f"{first} is left to the process that runs it" in done.out
    assert again.code == 2
    assert "all 1 jobs of" in again.err
    assert "are run by other processes now" in again.err
