"""The list of runs, and what a deletion may delete."""

import os
import time

import pytest

from diffsweep.comparison.listing import DAY, delete, disk, entries, plan, rows
from diffsweep.errors import UserError
from diffsweep.files import owned

LATER = time.time() + 10 * DAY


@pytest.fixture
def outputs(tmp_path, write_run, write_sweep):
    """A folder with a finished run, an interrupted one, and a sweep with a failed job."""
    folder = write_sweep({("linear", 0): 4.0, ("linear", 1): None}, states={1: "failed"})
    (tmp_path / "outputs" / "sweeps").mkdir(parents=True)
    folder.rename(tmp_path / "outputs" / "sweeps" / "s")
    write_run(tmp_path / "outputs" / "train" / "done", {"fid": 5.0, "is": 9.0})
    write_run(tmp_path / "outputs" / "train" / "cut", None, losses=(1.0,))
    return tmp_path / "outputs"


def names(found):
    return sorted(entry.folder.name for entry in found)


def test_runs_and_sweeps_are_listed_with_state_and_best_metric(outputs):
    found = {entry.folder.name: entry for entry in entries(outputs)}
    assert {name: entry.state for name, entry in found.items()} == {
        "done": "finished",
        "cut": "interrupted",
        "s": "1 finished, 1 failed",
    }
    assert found["done"].best == ("fid", 5.0)
    assert found["s"].best == ("fid", 4.0)
    files = [path for path in (outputs / "train" / "done").rglob("*") if path.is_file()]
    assert found["done"].size == sum(path.stat().st_size for path in files)
    (row,) = rows([found["s"]], LATER)
    assert row[1:4] == ["1 finished, 1 failed", "10 days", "FID 4.000"]
    assert (disk(999), disk(1_710_000)) == ("999 B", "1.71 MB")


def test_states_choose_runs_and_single_jobs(outputs):
    assert names(plan(outputs, ["failed"], 0, LATER).deleted) == ["1_schedule-linear_seed-1"]
    assert names(plan(outputs, ["interrupted"], 0, LATER).deleted) == ["cut"]
    assert names(plan(outputs, ["finished"], 0, LATER).deleted) == ["0_schedule-linear_seed-0", "done"]
    assert names(plan(outputs, ["finished", str(outputs / "sweeps" / "s")], 0, LATER).deleted) == ["done", "s"]


def test_what_has_changed_since_is_kept(outputs):
    planned = plan(outputs, ["finished"], 30, LATER)
    assert planned.deleted == []
    assert {reason for _, reason in planned.kept} == {"changed 10 days ago"}


def test_a_run_in_progress_is_never_deleted(outputs):
    run, sweep = outputs / "train" / "done", outputs / "sweeps" / "s"
    with owned(run / ".lock"), owned(sweep / ".locks" / "1_schedule-linear_seed-1.lock"):
        planned = plan(outputs, [str(run), str(sweep), "failed", "running"], 0, LATER)
        assert planned.deleted == []
        assert {reason for _, reason in planned.kept} == {"in progress"}
    (entry,) = plan(outputs, [str(run)], 0, LATER).deleted
    with owned(run / ".lock"), pytest.raises(UserError, match="in progress"):
        delete(entry)
    assert run.exists()
    delete(entry)
    assert not run.exists()


def test_a_run_that_wrote_a_moment_ago_elsewhere_is_in_progress(outputs):
    """On another machine its lock may not be visible here."""
    assert plan(outputs, ["interrupted"], 0, time.time()).deleted == []
    assert names(plan(outputs, ["interrupted"], 0, time.time() + 3600).deleted) == ["cut"]


@pytest.mark.parametrize("place", ["..", "../elsewhere", ".", "train/link", "train/done/../../../elsewhere"])
def test_nothing_outside_the_outputs_is_deleted(outputs, write_run, place):
    write_run(outputs.parent / "elsewhere", {"fid": 1.0})
    os.symlink(outputs.parent / "elsewhere", outputs / "train" / "link")
    with pytest.raises(UserError, match="not inside"):
        plan(outputs, [str(outputs / place)], 0, LATER)
    assert "link" not in names(entries(outputs))


@pytest.mark.parametrize(("target", "message"), [
    ("nothing", "no such directory, and no state; states are finished"),
    ("train", "holds several runs"),
    ("cache", "no run and no sweep"),
])  # fmt: skip
def test_other_targets_are_refused_in_a_line(outputs, monkeypatch, target, message):
    (outputs / "cache").mkdir()
    monkeypatch.chdir(outputs)
    with pytest.raises(UserError, match=message):
        plan(outputs, [target], 0, LATER)


def test_a_run_that_another_one_requires_is_kept(outputs, write_run):
    stage = write_run(outputs / "stages" / "autoencoder_kl_1", {"rfid": 1.0})
    user = write_run(outputs / "train" / "ldm", {"fid": 1.0}, values={"dataset.run": str(stage)})
    planned = plan(outputs, [str(stage)], 0, LATER)
    assert [(names([entry]), "ldm refers to it" in reason) for entry, reason in planned.kept] == [
        (["autoencoder_kl_1"], True)
    ]
    assert names(plan(outputs, [str(stage), str(user)], 0, LATER).deleted) == ["autoencoder_kl_1", "ldm"]
