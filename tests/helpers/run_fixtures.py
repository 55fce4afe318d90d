"""Fixtures of all tests: tiny runs, the command line in this process, and commands in processes of their own.

Heavy packages are imported inside the fixtures that use them.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SRC = Path(__file__).parents[2] / "src"
SMALL = ("dataset.batch_size=32", "model.val_repeats=1", "trainer.limit_val_batches=1")
FAST = ("debug=fast", "trainer=cpu", "logger=csv", "callbacks=minimal", "metrics=none", *SMALL)
STATE = ("HYDRA_FULL_ERROR", "DIFFSWEEP_SWEEP", "DIFFSWEEP_SWEPT", "WANDB_DATA_DIR")  # variables that commands set


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Undo after each test what a command writes into the environment."""
    for name in STATE:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def fast():
    """Overrides that make a run take a second."""
    return FAST


@pytest.fixture(scope="session")
def configure():
    """``cfg = configure(directory, *overrides)`` returns a new configuration of a tiny run in ``directory``."""
    from composing import composed

    def configure(directory, *overrides):
        places = (f"hydra.run.dir={directory}", f"paths.output_dir={Path(directory).parent}")
        learns_times = not any(override.startswith("model=autoencoder") for override in overrides)
        fast = [override for override in FAST if learns_times or override != "model.val_repeats=1"]
        return composed("train", *fast, *places, *overrides)

    return configure


@pytest.fixture(scope="session")
def resume():
    """``cfg = resume(directory, *overrides)`` returns the configuration that resumes a run."""
    from diffsweep.configuration.compose import compose

    return lambda directory, *overrides: compose("train", [f"resume={directory}", *overrides])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, configure):
    """The directory of a finished run of four steps with other choices than the defaults; tests must not change it."""
    from diffsweep.runs.training import train

    directory = tmp_path_factory.mktemp("runs") / "finished"
    overrides = ("schedule=linear", "schedule.num_steps=500", "prediction=v", "seed=5", "optimizer.lr=0.02")
    train(configure(directory, *overrides, "lr_scheduler.warmup_steps=0"))
    return directory


@pytest.fixture(scope="session")
def finished_clips(tmp_path_factory, configure):
    """The directory of a finished run on clips of four frames, conditioned on classes; tests must not change it."""
    from diffsweep.runs.training import train

    directory = tmp_path_factory.mktemp("runs") / "clips"
    sizes = ("dataset.num_frames=4", "dataset.num_train=32", "dataset.num_val=6", "dataset.batch_size=4")
    train(configure(directory, "model=video", "conditioning=class", "backbone.channels=8", "metrics=none", *sizes))
    return directory


@pytest.fixture(scope="session")
def finished_text(tmp_path_factory, configure):
    """The directory of a finished run on shapes, conditioned on their texts; tests must not change it."""
    from diffsweep.runs.training import train

    directory = tmp_path_factory.mktemp("runs") / "text"
    sizes = ("dataset.num_train=64", "dataset.num_val=64", "backbone.channels=8")
    train(configure(directory, "model=classifier_free", "dataset=shapes", "conditioning=text", *sizes))
    return directory


@pytest.fixture(scope="session")
def checkpoint():
    """``checkpoint(directory, name="last")`` returns the content of a checkpoint of a run."""
    import torch

    return lambda directory, name="last": torch.load(
        Path(directory) / "checkpoints" / f"{name}.ckpt", weights_only=True
    )


@pytest.fixture(scope="session")
def history():
    """``history(directory)`` returns the rows of a run's metrics.csv, with values as text."""

    def history(directory):
        with (Path(directory) / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return history


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """``done = command("train", *arguments)`` runs a command in this process, in an empty folder.

    ``done`` has its exit code ``code`` and its output ``out`` and ``err``.
    """
    from diffsweep.runs.cli import main

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def command(name, *arguments):
        code = 0
        for variable in STATE[1:]:
            monkeypatch.delenv(variable, raising=False)
        full_error = os.environ.get(STATE[0])
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        try:
            main(name)
        except SystemExit as stop:
            code = stop.code
        finally:
            monkeypatch.delenv(STATE[0], raising=False)
            if full_error is not None:
                monkeypatch.setenv(STATE[0], full_error)
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return command


@pytest.fixture(scope="session")
def environment():
    """The environment for a separate process: one thread, and no variables that commands set."""
    kept = {name: value for name, value in os.environ.items() if name not in STATE}
    return {**kept, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def process(environment):
    """``done = process("train", *arguments, cwd=...)`` runs a command in a separate process."""

    def process(name, *arguments, cwd, python=(), timeout=120, **variables):
        return subprocess.run(
            [sys.executable, *python, str(SRC / f"{name}.py"), *map(str, arguments)],
            cwd=cwd,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return process
