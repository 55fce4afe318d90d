"""The loggers of a run write metrics.csv and W&B runs."""

import pytest

from diffsweep.errors import Stopped
from diffsweep.models import DiffusionModel
from diffsweep.runs import report
from diffsweep.runs.description import run_id
from diffsweep.runs.training import train


def test_ids_are_the_last_two_names(tmp_path):
    from pathlib import Path

    assert run_id(Path("/a/sweeps/train_0a/0_seed-1")) == "train-0a-0-seed-1"
    assert len(run_id(Path("/a/" + "b" * 200))) == 64


def test_metric_rows_put_real_data_beside_samples():
    rows = report.metric_rows(
        {
            "images_per_second": 99.6,
            "network_evaluations": 50.0,
            "fid": 1.23456,
            "fid_real": 0.5,
            "is": 2.0,
            "is_real": 3.0,
        }
    )
    assert rows == [
        ("FID", "1.235", "real images in the place of samples 0.500"),
        ("IS", "2.000", "real 3.000"),
        ("samples/s", "99.6", "50 network evaluations each"),
    ]
    assert report.metric_rows({"fid": 1.0}) == [("FID", "1.000", "")]
    errors = {"fid": 5.0, "fid_low": 4.5, "fid_high": 5.5, "fid_real": 4.0, "real_samples": 200}
    assert report.metric_rows({**errors, "kid": 0.0123, "kid_se": 0.001, "kid_real": -0.0002}) == [
        ("FID", "5.000", "95 % 4.500 to 5.500; 200 real images in the place of samples 4.000"),
        ("KID x 1000", "12.30", "+- 1.00; real -0.20"),
    ]
    shares = {
        "recall": 0.25,
        "precision": 0.5,
        "precision_real": 0.75,
        "class_accuracy": 0.984,
        "class_accuracy_real": 1,
    }
    assert report.metric_rows({**shares, "caption_accuracy": 0.951, "caption_accuracy_held_out": 0.5}) == [
        ("precision", "0.500", "real images in the place of samples 0.750"),
        ("recall", "0.250", ""),
        ("class accuracy", "98.4%", "real 100.0%"),
        ("caption accuracy", "95.1%", "colour and shape as requested, combinations of the training set"),
        ("caption accuracy, held out", "50.0%", "combinations that training never shows"),
    ]


def test_tables_are_aligned():
    assert report.table([("a", "10.5", "x"), ("long", "1", "")]) == "  a     10.5  x\n  long     1"


class FakeRun:
    """A W&B run with the methods that are used."""

    def __init__(self, calls, keywords):
        self.calls, self.keywords, self.summary, self.logged = calls, keywords, {}, []
        self.id, self.name = keywords["id"], keywords["name"]

    def define_metric(self, name, **keywords):
        """Every metric has its last value in the summary, as is W&B's default."""
        assert "summary" not in keywords

    def log(self, data, **keywords):
        self.logged.append(dict(data))

    def project_name(self):
        return "diffsweep"


@pytest.fixture
def wandb_runs(monkeypatch):
    """The W&B runs that were started, each with its settings and its exit code."""
    wandb = pytest.importorskip("wandb")
    begun = []

    def init(**keywords):
        begun.append(FakeRun(begun, keywords))
        monkeypatch.setattr(wandb, "run", begun[-1])
        return begun[-1]

    def finish(exit_code=None, **_):
        begun[-1].exit_code = exit_code
        monkeypatch.setattr(wandb, "run", None)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "finish", finish)
    return begun


def test_a_tracked_run_records_its_choices_and_numbers(tmp_path, configure, wandb_runs):
    train(configure(tmp_path / "run", "logger=wandb", "schedule=linear", "prediction=v", "seed=3"))
    (run,) = wandb_runs
    config = run.keywords["config"]
    expected = {"model": "ddpm", "schedule": "linear", "backbone": "unet", "sampler": "ancestral", "dataset": "digits"}
    assert {key: config[key] for key in (*expected, "prediction", "seed")} == {**expected, "prediction": "v", "seed": 3}
    assert (run.keywords["mode"], run.keywords["dir"]) == ("offline", str(tmp_path / "run"))
    assert (run.keywords["group"], run.keywords["job_type"]) == ("run", "train")
    assert run.exit_code == 0
    names = {name for row in run.logged for name in row}
    assert {"train/loss", "train/loss_q1", "val/loss", "val/x0_mse", "val/eps_mse", "trainer/global_step"} <= names


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_wandb_gets_the_configured_mode(tmp_path, configure, wandb_runs, mode):
    train(configure(tmp_path / "run", "logger=wandb", f"logger.mode={mode}", "trainer.max_steps=1"))
    assert [run.keywords["mode"] for run in wandb_runs] == ([] if mode == "disabled" else [mode])


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run_to_wandb(tmp_path, configure, resume, wandb_runs):
    train(configure(tmp_path / "run", "logger=wandb", "logger.mode=online", "trainer.max_steps=1"))
    train(resume(tmp_path / "run", "trainer.max_steps=2"))
    first, second = (run.keywords for run in wandb_runs)
    assert first["id"] == second["id"]
    assert first["resume"] == second["resume"] == "allow"


@pytest.mark.slow
def test_a_failed_run_is_marked_failed(tmp_path, configure, wandb_runs, monkeypatch):
    def fail(error):
        def training_step(self, *_):
            raise error

        monkeypatch.setattr(DiffusionModel, "training_step", training_step)

    for index, (error, code) in enumerate([(RuntimeError("broke"), 1), (Stopped(143), 143), (KeyboardInterrupt(), 1)]):
        fail(error)
        with pytest.raises(BaseException):  # noqa: B017
            train(configure(tmp_path / f"run{index}", "logger=wandb"))
        assert wandb_runs[-1].exit_code == code


def test_a_diverged_run_is_marked_failed(tmp_path, configure, wandb_runs):
    from diffsweep.callbacks import LossIsNaN

    with pytest.raises(LossIsNaN):
        train(configure(tmp_path / "run", "logger=wandb", "optimizer.lr=1e30", "lr_scheduler.warmup_steps=0"))
    assert wandb_runs[0].exit_code == 1


def test_real_wandb_writes_into_the_run(tmp_path, configure):
    """It is offline, and no run is left open."""
    wandb = pytest.importorskip("wandb")
    train(configure(tmp_path / "run", "logger=wandb", "trainer.max_steps=1"))
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert wandb.run is None
