"""W&B without network, key or disk, or with ids that clash, never ends a training: one warning, and whole files."""

import errno

import pytest
from offline_wandb import read_runs

from diffsweep.runs.description import LONGEST_ID, Description
from diffsweep.runs.training import train
from diffsweep.runs.wandb_run import WandbRun, wandb_id

wandb = pytest.importorskip("wandb")
ONLINE = ("logger=wandb", "logger.mode=online", "trainer.log_every_n_steps=2")
KEY = "0123456789" * 4
CLOSED = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}  # a port on which nobody listens


def described(directory, identity="train-a"):
    return Description(directory, identity, "name", "group", "train", [], {})


def warnings(text):
    return [line for line in text.splitlines() if line.startswith("warning:")]


def test_a_run_without_network_is_recorded_offline(tmp_path, configure, monkeypatch, capsys, history):
    begin, modes = wandb.init, []

    def init(**keywords):
        modes.append(keywords["mode"])
        if keywords["mode"] == "online":
            raise wandb.errors.CommError("dial tcp: connection\nrefused")
        return begin(**keywords)

    monkeypatch.setattr(wandb, "init", init)
    train(configure(tmp_path / "run", *ONLINE))
    assert modes == ["online", "offline"]
    (line,) = warnings(capsys.readouterr().err)
    assert "W&B cannot be reached (CommError: dial tcp: connection refused)" in line
    assert f"wandb sync {tmp_path / 'run' / 'wandb'}/offline-run-*" in line
    (run,) = read_runs(tmp_path / "run")
    assert [row["trainer/global_step"] for row in run.history if "train/loss" in row] == [2, 4]
    assert run.exit_code == 0
    assert [row["step"] for row in history(tmp_path / "run")][-1] == "4"


def test_a_run_goes_on_if_wandb_cannot_start_at_all(tmp_path, configure, monkeypatch, capsys, history):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wandb, "init", full)
    train(configure(tmp_path / "run", *ONLINE))
    (line,) = warnings(capsys.readouterr().err)
    assert "W&B records nothing of this run (OSError: [Errno 28] No space left on device)" in line
    assert [row["step"] for row in history(tmp_path / "run")][-1] == "4"


class Full:
    """A run of W&B on a full disk."""

    id, name, step, calls, summary = "a", "a", 0, 0, {}

    def log(self, *_, **__):
        Full.calls += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_first_error_of_a_run_is_a_warning_and_the_others_are_silent(capsys):
    Full.calls = 0
    logger = WandbRun(Full)
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.log_facts({"gmac": 1.0})
    logger.save()
    logger.finalize("success")
    (line,) = warnings(capsys.readouterr().err)
    assert "W&B records no more of this run (OSError: [Errno 28] No space left on device)" in line
    assert "metrics.csv is complete" in line
    assert Full.calls == 1


def test_runs_of_the_same_directory_name_are_never_merged(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    here, other = described(tmp_path / "a" / "run"), described(tmp_path / "b" / "run")
    first, second = wandb_id(here, False), wandb_id(other, False)
    assert first != second
    assert first.startswith("train-a-")
    assert (wandb_id(here, True), wandb_id(other, True)) == (first, second)
    assert wandb_id(here, False) not in (first, second)  # the directory was deleted, and is that of a new run
    (tmp_path / "old" / "wandb").mkdir(parents=True)  # of a release before ids were kept
    assert wandb_id(described(tmp_path / "old"), True) == "train-a"
    assert wandb_id(described(tmp_path / "c"), True).startswith("train-a-")  # it was stopped before W&B had started
    assert len(wandb_id(described(tmp_path / "long", "b" * LONGEST_ID), False)) == LONGEST_ID
    monkeypatch.setenv("WANDB_SWEEP_ID", "xyz")
    assert wandb_id(described(tmp_path / "agent"), False) == "train-a"


@pytest.mark.slow
@pytest.mark.parametrize("key", [KEY, None])
def test_a_process_without_network_or_key_trains(key, process, fast, tmp_path, history):
    settings = {**CLOSED, "HOME": str(tmp_path), **({"WANDB_API_KEY": key} if key else {})}
    done = process("train", *fast, *ONLINE, "hydra.run.dir=run", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    (line,) = warnings(done.stderr)
    assert "W&B cannot be reached (" in line
    assert ("connection refused" if key else "No API key") in line
    assert "Traceback" not in done.stderr
    (run,) = read_runs(tmp_path / "run")
    assert [row["trainer/global_step"] for row in run.history if "train/loss" in row] == [2, 4]
    assert [row["step"] for row in history(tmp_path / "run")][-1] == "4"
