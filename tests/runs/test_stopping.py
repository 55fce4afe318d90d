"""Ctrl-C, SIGTERM and SIGUSR1 stop a run between two steps, and it can be resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainers import FakeTrainer

from diffsweep import tensor_files
from diffsweep.comparison.listing import entry_of
from diffsweep.errors import Stopped
from diffsweep.models import DiffusionModel
from diffsweep.runs.stopping import StopSignals
from diffsweep.runs.training import train

ARGUMENTS = {"on_train_batch_start": (None, 8), "on_train_batch_end": (None, None, 7)}  # after trainer and module


def entered(*events, trainer=None):
    """Enter a StopSignals under events, which are signals and names of its hooks."""
    with StopSignals("last.ckpt") as signals:
        for event in events:
            if isinstance(event, signal.Signals):
                os.kill(os.getpid(), event)
            else:
                getattr(signals, event)(trainer, None, *ARGUMENTS.get(event, ()))
    raise AssertionError("not stopped")


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_outside_of_training_a_signal_raises_at_once(number, code):
    with pytest.raises(Stopped) as stopped:
        entered(number)
    assert stopped.value.code == code


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_in_training_it_waits_for_the_end_of_the_step(number, code):
    trainer = FakeTrainer()
    with pytest.raises(AssertionError, match="not stopped"):
        entered("on_train_start", "on_train_batch_end", "on_train_batch_start", number, trainer=trainer)
    assert trainer.saved == []
    with pytest.raises(Stopped) as stopped:
        entered("on_train_start", number, "on_train_batch_end", "on_train_batch_start", trainer=trainer)
    assert stopped.value.code == code
    assert trainer.saved == ["last.ckpt"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGUSR1])
def test_control_c_as_the_second_signal_raises_at_once(first):
    trainer = FakeTrainer()
    with pytest.raises(Stopped) as stopped:
        entered("on_train_start", first, signal.SIGINT, trainer=trainer)
    assert stopped.value.code == 130
    assert trainer.saved == []


def test_schedulers_repeat_their_signals_and_the_step_is_saved():
    trainer = FakeTrainer()
    repeated = (signal.SIGUSR1, signal.SIGTERM, "on_train_batch_end", signal.SIGTERM, "on_train_batch_start")
    with pytest.raises(Stopped) as stopped:
        entered("on_train_start", *repeated, trainer=trainer)
    assert stopped.value.code == 143
    assert trainer.saved == ["last.ckpt"]


def test_a_process_that_prepares_batches_takes_no_signal():
    """It inherits the handlers; the training process ends it."""
    with StopSignals("last.ckpt") as signals:
        signals.on_train_start(None, None)
        signals._process = -1
        for number, _ in 2 * SIGNALS:
            os.kill(os.getpid(), number)
        signals._process = os.getpid()
        assert signals._received is None


def test_after_training_a_signal_raises_at_once_again():
    with pytest.raises(Stopped):
        entered("on_train_start", "on_train_end", signal.SIGTERM)


def test_earlier_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals("last.ckpt"):
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ZeroDivisionError), StopSignals("last.ckpt"):
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def send_in(monkeypatch, name, number, when):
    """Send a signal at the beginning of a method of the model, once ``when(model)`` holds."""
    original, sent = getattr(DiffusionModel, name), []

    def method(self, *arguments, **keywords):
        if not sent and when(self):
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(DiffusionModel, name, method)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGUSR1, 143)],
)
def test_a_stopped_run_prints_how_to_resume(number, code, tmp_path, configure, monkeypatch, capsys, checkpoint):
    send_in(monkeypatch, "training_step", number, lambda model: model.global_step == 2)
    with pytest.raises(Stopped) as stopped:
        train(configure(tmp_path / "run"))
    assert stopped.value.code == code
    assert checkpoint(tmp_path / "run")["global_step"] == 3
    output = capsys.readouterr().out
    assert "stopped at step 3" in output
    assert f"resume={tmp_path / 'run'}" in output
    state = "interrupted" if code == 130 else "preempted"
    assert json.loads((tmp_path / "run" / "stopped.json").read_text()) == {"state": state, "step": 3}
    assert entry_of(tmp_path / "run").state == state


@pytest.mark.parametrize(
    ("second", "step"), [(signal.SIGTERM, 3), pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow)]
)
def test_a_second_signal_while_saving_leaves_a_whole_checkpoint(
    second, step, tmp_path, configure, resume, monkeypatch, checkpoint
):
    """It is the new one of step 3 after a scheduler's signal, and the old one of step 2 after Ctrl-C."""
    original = tensor_files.torch.save

    def save(content, file, **keywords):
        original(content, file, **keywords)
        if content["global_step"] == 3 and not sent:
            sent.append(second)
            os.kill(os.getpid(), second)

    sent = []
    with monkeypatch.context() as patch:
        send_in(patch, "training_step", signal.SIGTERM, lambda model: model.global_step == 2)
        patch.setattr(tensor_files.torch, "save", save)
        with pytest.raises(Stopped) as stopped:
            train(configure(tmp_path / "run", "trainer.val_check_interval=2"))
    assert sent
    assert stopped.value.code == (143 if step == 3 else 130)
    assert checkpoint(tmp_path / "run")["global_step"] == step
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    train(resume(tmp_path / "run"))
    assert checkpoint(tmp_path / "run")["global_step"] == 4
    assert entry_of(tmp_path / "run").state == "finished"
    assert not (tmp_path / "run" / "stopped.json").exists()


@pytest.mark.slow
def test_a_run_killed_in_a_validation_after_a_signal_has_its_checkpoint(
    tmp_path, configure, resume, monkeypatch, checkpoint
):
    """A scheduler kills what has not ended in time. The step is saved within one batch of a long validation."""
    settings = ("trainer.max_steps=3", "trainer.val_check_interval=2", "trainer.limit_val_batches=2")
    train(configure(tmp_path / "whole", *settings))
    original = DiffusionModel.validation_step

    def validation_step(self, batch, batch_idx):
        if self.global_step == 2 and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
        elif self.global_step == 2:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModel, "validation_step", validation_step)
        with pytest.raises(Stopped):
            train(configure(tmp_path / "run", *settings))
    assert entry_of(tmp_path / "killed").state == "preempted"
    for name in ("run", "killed"):
        assert checkpoint(tmp_path / name)["global_step"] == 2
        train(resume(tmp_path / name))
        whole, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / name)
        for part in (lambda c: c["state_dict"], lambda c: c["ema"]["weights"]):
            assert all(torch.equal(part(whole)[key], part(other)[key]) for key in part(whole))


@pytest.mark.slow
def test_stopped_in_validation_the_weights_saved_are_those_that_train(
    tmp_path, configure, resume, monkeypatch, checkpoint
):
    """They are not the average of validation, and the resumed run is the uninterrupted one."""
    train(configure(tmp_path / "whole", "trainer.max_steps=3"))
    with monkeypatch.context() as patch:
        send_in(patch, "validation_step", signal.SIGTERM, lambda model: model.global_step == 2)
        with pytest.raises(Stopped):
            train(configure(tmp_path / "run", "trainer.max_steps=3"))
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    train(resume(tmp_path / "run"))
    whole, run = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "run")
    for part in (lambda c: c["state_dict"], lambda c: c["ema"]["weights"]):
        assert all(torch.equal(part(whole)[name], part(run)[name]) for name in part(whole))


def test_a_signal_in_the_last_validation_leaves_a_finished_checkpoint(tmp_path, configure, monkeypatch, checkpoint):
    send_in(monkeypatch, "validation_step", signal.SIGTERM, lambda model: model.global_step == 4)
    with pytest.raises(Stopped) as stopped:
        train(configure(tmp_path / "run"))
    assert stopped.value.code == 143
    assert checkpoint(tmp_path / "run")["global_step"] == 4


def test_a_run_that_saved_nothing_names_no_checkpoint(tmp_path, configure, monkeypatch, capsys):
    """It was stopped before its first step."""
    send_in(monkeypatch, "configure_optimizers", signal.SIGINT, lambda model: True)
    with pytest.raises(Stopped):
        train(configure(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    output = capsys.readouterr().out
    assert "saved in" not in output
    assert "resume=" not in output


def test_a_run_stopped_while_measuring_prints_how_to_resume(tmp_path, configure, resume, monkeypatch, capsys):
    """Training is finished and saved, so the resumed run only measures."""
    metrics = ("metrics=digits", "metrics.num_samples=8", "metrics.kid_subset_size=8", "metrics.reference=train")
    with monkeypatch.context() as patch:
        send_in(patch, "sample_from", signal.SIGINT, lambda model: True)
        with pytest.raises(Stopped) as stopped:
            train(configure(tmp_path / "run", *metrics))
    assert stopped.value.code == 130
    assert f"resume={tmp_path / 'run'}" in capsys.readouterr().out
    train(resume(tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.json").exists()


# A command that prints at its end the modules that were imported.
LOADED = """
import atexit, runpy, sys
atexit.register(lambda: print("LOADED", *sys.modules))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def running(environment, tmp_path):
    """``process = running(*arguments)``: a command in a process of its own, which ends with the test."""
    started = []

    def running(*arguments):
        script = Path(__file__).parents[2] / "src" / "train.py"
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", LOADED, str(script), *arguments],
                cwd=tmp_path,
                env={**environment, "PYTHONPATH": str(script.parent)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield running
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_process_saves_a_whole_step_and_exits(number, code, running, fast, tmp_path, checkpoint):
    """It runs in a folder outside the repository and does not import wandb, which it does not use."""
    settings = ("hydra.run.dir=run", "trainer.max_steps=100000", "trainer.log_every_n_steps=1")
    process = running(*fast, *settings, "trainer.val_check_interval=90000")
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    (line,) = [line for line in out.splitlines() if line.startswith("LOADED")]
    assert {"torch", "lightning", "diffsweep"} <= set(line.split())
    assert "wandb" not in line.split()
    assert "Traceback" not in err
    assert "resume=run" in out
    saved = checkpoint(tmp_path / "run")
    assert saved["global_step"] > 0
    assert saved["ema"]["step"] == saved["global_step"] == saved["lr_schedulers"][0]["last_epoch"]
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {saved["global_step"]}


def test_a_thread_without_handlers_trains(tmp_path, configure):
    """Python allows no handlers outside the main thread, where signals do not stop the run."""
    seen = SimpleNamespace(error=None)

    def run():
        try:
            train(configure(tmp_path / "run"))
        except BaseException as error:
            seen.error = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen.error is None
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
