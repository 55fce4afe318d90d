"""What W&B gets of a run, read back from its offline files."""

import json

import pytest
import torch
from offline_wandb import read_runs

from diffsweep.configuration.compose import compose
from diffsweep.runs.commands import evaluate, sample
from diffsweep.runs.training import train
from diffsweep.runs.wandb_run import SAMPLES, WandbRun

pytest.importorskip("wandb")
CLASSES = ("model=classifier_free", "logger=wandb", "seed=3")
MEASURED = ("metrics=digits", "metrics.num_samples=60", "metrics.reference=all", "callbacks=default")
PICTURES = ("callbacks.sample_grid.num_samples=4", "callbacks.sample_grid.steps=2", "sampler.steps=2")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, configure):
    """The directory of a run with classes that was measured and drawn, and resumed for two more steps."""
    directory = tmp_path_factory.mktemp("runs") / "tracked"
    steps = ("trainer.max_steps=4", "trainer.log_every_n_steps=2", "trainer.val_check_interval=2")
    train(configure(directory, *CLASSES, *MEASURED, *PICTURES, *steps, "logger.artifacts=true"))
    train(compose("train", [f"resume={directory}", "trainer.max_steps=6"]))
    return directory


def test_a_run_has_the_name_of_what_is_not_default(tracked):
    first, second = read_runs(tracked)
    assert first.name.startswith("debug=fast model=classifier_free")
    assert "seed=3" in first.name.split()
    assert "sampler.steps=2" in first.name.split()
    assert not any(word.startswith(("schedule", "callbacks", "logger", "paths")) for word in first.name.split())
    assert set(second.name.split()) - set(first.name.split()) == {"trainer.max_steps=6"}
    assert len(second.name) <= 128
    assert (first.group, first.job_type, first.exit_code) == ("tracked", "train", 0)
    assert {"model=classifier_free", "schedule=cosine", "conditioning=class", "debug=fast"} <= set(first.tags)
    assert first.tags == second.tags


def test_a_resumed_run_goes_on_in_its_run(tracked):
    first, second = read_runs(tracked)
    assert first.id == second.id
    steps = [[row["trainer/global_step"] for row in run.history if "train/loss" in row] for run in (first, second)]
    assert steps == [[2, 4], [6]]


def test_values_are_resolved_under_the_keys_that_users_type(tracked):
    config = read_runs(tracked)[0].config
    assert (config["schedule"], config["schedule.num_steps"], config["seed"]) == ("cosine", 1000, 3)
    assert (config["condition.num_classes"], config["backbone.num_classes"], config["model.seed"]) == (10, 10, 3)
    assert config["callbacks.sample_grid.num_samples"] == 4
    text = json.dumps(config)
    assert str(tracked) not in text
    assert "${" not in text
    for key in ("_target_", "choices", "paths.", "model.backbone.", "logger."):
        assert not any(key in name for name in config), key


def test_the_summary_has_last_values_and_the_best_under_names_of_their_own(tracked, history):
    first, second = read_runs(tracked)
    losses = [float(row["val/loss"]) for row in history(tracked) if row["val/loss"]]
    assert second.summary["val/loss"] == pytest.approx(losses[-1], rel=1e-6)
    assert second.summary.get("best/val/loss", first.summary["best/val/loss"]) == pytest.approx(min(losses), rel=1e-6)
    content = json.loads((tracked / "metrics.json").read_text())
    assert second.summary["eval/fid"] == pytest.approx(content["metrics"]["fid"])
    assert second.summary["protocol_id"] == content["protocol_id"]
    assert second.summary["data_fingerprint"] == content["protocol"]["data"]
    assert second.summary["gmac"] > 0
    assert 0.05 < second.summary["peak_memory_gib"] < 100
    state = torch.load(tracked / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    network = {name: weight for name, weight in state.items() if "backbone" in name}
    assert second.summary["parameters"] == sum(weight.numel() for weight in network.values())


def test_the_history_has_the_course_of_training(tracked, history):
    rows = [row for row in read_runs(tracked)[0].history if "train/loss" in row]
    assert [row["train/lr"] for row in rows] == pytest.approx([0.002 * 2 / 100, 0.002 * 4 / 100], rel=1e-6)
    assert [row["train/ema_decay"] for row in rows] == pytest.approx([3 / 12, 5 / 14], rel=1e-6)
    assert all(row["train/grad_norm"] > 0 and row["train/steps_per_second"] > 0 for row in rows)
    assert "train/lr" in history(tracked)[0]
    assert "train/steps_per_second" not in history(tracked)[0]


def test_grids_have_steps_and_captions(tracked):
    rows = [row for row in read_runs(tracked)[0].history if "samples|_type" in row]
    assert [row["trainer/global_step"] for row in rows] == [2, 4]
    assert rows[1]["samples|captions"] == ["4 samples at step 4: classes 0 1 2 3"]


def test_a_table_has_the_final_samples_and_the_checkpoints_are_kept(tracked):
    first, _ = read_runs(tracked)
    (row,) = [row for row in first.history if "samples_table|nrows" in row]
    assert row["samples_table|nrows"] == min(SAMPLES, 60)
    table = json.loads(next(tracked.glob("wandb/offline-run-*/files/" + row["samples_table|path"])).read_text())
    assert table["columns"] == ["index", "label", "sample"]
    assert [line[:2] for line in table["data"][:12]] == [[i, i % 10] for i in range(12)]
    (table_of, model) = first.artifacts
    assert (table_of.type, model.type) == ("run_table", "model")
    files = {entry.path for entry in model.manifest.contents}
    assert files == {"last.ckpt", "best.ckpt", "config.yaml", "metrics.json"}
    assert (
        sum(entry.path.startswith("media/images/") for entry in table_of.manifest.contents)
        == row["samples_table|nrows"]
    )


@pytest.mark.slow
def test_evaluations_and_samples_are_in_the_group_of_their_run(tracked, tmp_path):
    evaluate(compose("evaluate", [f"run={tracked}", "sampler=ddim", "sampler.steps=2", f"output={tmp_path / 'e'}"]))
    (run,) = read_runs(tmp_path / "e")
    assert (run.group, run.job_type, run.exit_code) == ("tracked", "evaluate", 0)
    assert run.name == "evaluate sampler=ddim"
    assert (run.config["run"], run.config["sampler"], run.config["sampler.steps"]) == ("tracked", "ddim", 2)
    content = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert run.summary["eval/fid"] == pytest.approx(content["metrics"]["fid"])
    assert run.summary["protocol_id"] == content["protocol_id"]
    sample(compose("sample", [f"run={tracked}", "num_samples=3", "seed=7", f"output={tmp_path / 's'}"]))
    (run,) = read_runs(tmp_path / "s")
    assert (run.group, run.job_type, run.name) == ("tracked", "sample", "sample seed=7")
    assert {"grid|captions", "trajectory|captions", "samples_table|nrows"} <= {
        name for row in run.history for name in row
    }
    assert run.summary["images_per_second"] > 0


def test_a_failed_evaluation_ends_as_failed(tracked, tmp_path, monkeypatch):
    from diffsweep.runs import commands

    def broken(*_):
        raise RuntimeError("broke")

    monkeypatch.setattr(commands, "measure", broken)
    with pytest.raises(RuntimeError):
        evaluate(compose("evaluate", [f"run={tracked}", f"output={tmp_path / 'e'}"]))
    assert read_runs(tmp_path / "e")[0].exit_code == 1


def test_the_best_values_go_on_from_those_before():
    """The lowest loss and the highest score count, whatever comes last; a loss that is not a number does not."""

    class Run:
        id, name = "a", "a"

        def __init__(self):
            self.summary = {}

        def log(self, *_, **__):
            pass

    run = Run()
    logger = WandbRun(lambda: run, earlier=[{"val/loss": 0.5, "eval/is": 3.0}])
    for loss, score in ((0.75, 2.0), (float("nan"), 4.0), (0.25, 3.5), (0.5, 1.0)):
        logger.log_metrics({"val/loss": loss, "eval/is": score, "eval/copy_ratio": score}, 1)
    assert run.summary == {
        "best/val/loss": 0.25,
        "best/eval/is": 4.0,
        "best/eval/copy_ratio": 1.0,
    }  # of which 1 is best


def test_a_run_starts_when_something_is_logged_and_keeps_the_facts_from_before():
    class Run(dict):
        starts = 0

        def __init__(self):
            Run.starts += 1
            self.summary, self.log = {}, lambda metrics: self.update(metrics)

    logger = WandbRun(Run)
    logger.log_facts({"gmac": 0.015})
    logger.save()
    logger.finalize("failed")
    assert not hasattr(logger, "experiment")  # for which Lightning looks before the first step
    assert Run.starts == 0
    logger.log_metrics({"train/loss": 1.0}, 50)
    logger.log_facts({"parameters": 7})
    assert logger.experiment == {"train/loss": 1.0, "trainer/global_step": 50}
    assert logger.experiment.summary == {"gmac": 0.015, "best/train/loss": 1.0, "parameters": 7}
    assert Run.starts == 1


@pytest.mark.slow
def test_jobs_of_a_sweep_have_the_name_of_what_varies(command, fast, tmp_path):
    done = command("train", "-m", "schedule=linear,cosine", "seed=3", *fast, "logger=wandb", "trainer.max_steps=1")
    assert done.code == 0, done.err
    jobs = sorted((tmp_path / "here").glob("outputs/sweeps/*/*"))
    runs = [read_runs(job)[0] for job in jobs if (job / "wandb").is_dir()]
    assert [run.name for run in runs] == ["schedule-linear", "schedule-cosine"]
    assert {run.group for run in runs} == {jobs[0].parent.name}
