"""Run and sweep directories as records: settings, metrics, states, and what is half-written."""

import json
import shutil

import pytest

from diffsweep.comparison.differences import varied
from diffsweep.comparison.records import read, read_run
from diffsweep.errors import UserError
from diffsweep.files import owned


def test_a_run_is_read_from_its_files(tmp_path, write_run):
    write_run(
        tmp_path / "a", {"fid": 4.5}, {"schedule": "linear"}, {"seed": 3}, cost={"seconds": 7200, "parameters": 5}
    )
    (record,) = read([tmp_path / "a"])
    assert record.metrics == {"fid": 4.5, "val/loss": 0.5, "hours": 2.0, "parameters": 5.0}
    assert (record.seed, record.state, record.settings["schedule"]) == (3, "finished", "linear")
    assert record.protocols["protocol"]["num_samples"] == 80
    assert record.history["val/loss"] == [(2, 1.0), (4, 0.5)]
    assert record.shown("sampler.steps") == "1000"  # follows schedule.num_steps
    assert record.shown("sampler.clip") == "${space.clip}"
    assert "paths.run_dir" not in record.settings


def test_jobs_come_in_their_order_with_what_the_manifest_states(write_sweep):
    values = {(schedule, seed): 1.0 + seed for seed in range(3) for schedule in ("b", "a", "c", "d")}
    folder = write_sweep(values)
    records = read([folder])
    assert [record.name.split("_")[0] for record in records] == [str(k) for k in range(12)]
    assert records[0].typed == {"schedule": "b", "seed": "0"}
    assert records[0].metrics["hours"] == 90 / 3600
    assert {record.sweep for record in records} == {folder}
    (folder / "sweep.json").unlink()
    without = read([folder])
    assert [record.name for record in without] == [record.name for record in records]


def test_a_directory_is_read_once_and_patterns_are_expanded(write_sweep, tmp_path):
    folder = write_sweep({("linear", 0): 1.0, ("linear", 1): 2.0})
    assert len(read([folder, f"{tmp_path}/sw*/*_seed-0", tmp_path])) == 2


def test_states_come_from_locks_files_and_the_manifest(write_sweep, tmp_path, write_run):
    values = {("linear", 0): None, ("linear", 1): None, ("linear", 2): None, ("linear", 3): 1.0}
    folder = write_sweep(values, states={0: "running", 1: "failed", 2: "waiting"})
    shutil.rmtree(next(folder.glob("2_*")))
    states = [record.state for record in read([folder])]
    assert states == ["interrupted", "failed", "waiting", "finished"]  # what was running when its process was killed
    with owned(folder / ".locks" / f"{next(folder.glob('0_*')).name}.lock"):
        assert read([folder])[0].state == "running"
    run = write_run(tmp_path / "alone", None)
    assert read_run(run).state == "finished"  # without metrics it has made all of its steps
    with owned(run / ".lock"):
        assert read_run(run).state == "running"
    assert read_run(write_run(tmp_path / "short", None, losses=(1.0,))).state == "interrupted"


def test_a_half_written_file_is_named(tmp_path, write_run):
    run = write_run(tmp_path / "a", {"fid": 1.0})
    (run / "metrics.json").write_text('{"metrics": {"fid"')
    assert read_run(run).error == "metrics.json is half-written"
    (run / "config.yaml").write_text("seed: [0")
    assert "config.yaml is half-written" in read_run(run).error


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: path.mkdir(), "is empty"),
    (lambda path: (path / "notes").mkdir(parents=True), "holds no run"),
    (lambda path: None, "no such directory"),
])  # fmt: skip
def test_a_directory_without_runs_is_refused_in_a_line(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message) as refused:
        read([tmp_path / "x"])
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no directory matches"):
        read([f"{tmp_path}/nothing*"])


def test_an_evaluation_without_a_configuration_has_the_settings_of_its_protocol(tmp_path):
    for steps in (10, 20):
        folder = tmp_path / f"e{steps}"
        folder.mkdir()
        protocol = {"num_samples": 80, "sampler": "DDIM", "steps": steps, "guidance": {"scale": 2.0}, "seed": 5}
        (folder / "metrics.json").write_text(json.dumps({"metrics": {"fid": 1.0}, "protocol": protocol}))
    records = read([tmp_path])
    assert varied(records) == ["sampler.steps"]
    assert {record.seed for record in records} == {5}
    assert records[0].settings["guidance.scale"] == 2.0


def test_what_follows_from_a_family_is_not_a_difference(tmp_path, write_run):
    """conf/model/edm.yaml chooses these options and settings; the learning rate was typed."""
    edm = {
        "model": "edm",
        "schedule": "edm",
        "prediction": "edm",
        "weighting": "edm",
        "time_sampling": "log_normal",
        "sampler": "ddim",
    }
    default = {"prediction": "eps", "weighting": "uniform", "time_sampling": "uniform"}
    write_run(tmp_path / "a", {"fid": 1.0}, default, {"optimizer.lr": 0.001})
    write_run(tmp_path / "b", {"fid": 1.0}, edm, {"sampler.spacing": "karras"})
    assert varied(read([tmp_path])) == ["model", "optimizer.lr"]
    write_run(tmp_path / "c", {"fid": 1.0}, {**edm, "weighting": "snr"}, {"sampler.spacing": "karras"})
    assert varied(read([tmp_path])) == ["model", "weighting", "optimizer.lr"]


@pytest.mark.slow
def test_two_hundred_real_runs_are_read(tmp_path, write_run, finished):
    """With the configuration of a real run; five seeds of forty learning rates."""
    for k in range(200):
        run = write_run(tmp_path / f"{k}", {"fid": 1.0})
        text = (finished / "config.yaml").read_text().replace("lr: 0.02", f"lr: {0.01 * (k // 5 + 1)}")
        (run / "config.yaml").write_text(text.replace("seed: 5", f"seed: {k % 5}", 1))
    records = read([tmp_path])
    assert len(records) == 200
    assert varied(records) == ["optimizer.lr"]
