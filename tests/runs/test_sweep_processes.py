"""Sweeps in processes of their own: they are killed and stopped, and launchers and Lightning start further ones."""

import contextlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
# A command that writes each training step as "job step" into the file "steps", and at a given one kills its process and
# the one that supervises it.
COUNTED = """
import os, runpy, signal, sys
from pathlib import Path
from diffsweep.models import DiffusionModel
del sys.argv[0]
original = DiffusionModel.training_step
def training_step(self, *rest):
    line = f"{Path(self.trainer.default_root_dir).name[0]} {self.global_step}"
    with open("steps", "a") as file:
        file.write(line + chr(10))
    if line == os.environ.get("KILL_AT"):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *rest)
DiffusionModel.training_step = training_step
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# A package with a callback that kills the process of the second job before its fifth step while the file "kill" exists.
DEADLY = """
import os, signal
from pathlib import Path
from lightning import Callback

class Deadly(Callback):
    def on_train_batch_start(self, trainer, *_):
        is_second = Path(trainer.default_root_dir).name.startswith("1_")
        if is_second and trainer.global_step == 4 and Path("kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
"""
LAUNCHERS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}


def states(folder):
    (path,) = folder.glob("outputs/sweeps/*/sweep.json")
    return [job["state"] for job in json.loads(path.read_text())["jobs"]]


def wait_for(condition, process):
    deadline = time.monotonic() + 100
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition(), process.poll()


def installed(launcher):
    plugin = f"hydra_plugins.{LAUNCHERS[launcher]}"
    return pytest.param(launcher, marks=pytest.mark.skipif(not importlib.util.find_spec(plugin), reason=plugin))


@pytest.mark.slow
def test_a_killed_sweep_repeats_the_steps_since_the_last_checkpoint_alone(process, fast, tmp_path):
    """Jobs save each second of their six steps; the fourth of eight is killed in its last step."""
    arguments = ("-m", "seed=0,1,2,3,4,5,6,7", *fast, "trainer.max_steps=6")

    def run(**variables):
        counted = {"PYTHONPATH": str(SRC), **variables}
        return process("train", *arguments, cwd=tmp_path, python=("-c", COUNTED), **counted)

    assert run(KILL_AT="3 5").returncode == -signal.SIGKILL
    assert states(tmp_path) == ["finished"] * 3 + ["running"] + ["waiting"] * 4
    (tmp_path / "steps").rename(tmp_path / "before")
    done = run()
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["finished"] * 8
    assert "3 of 8 jobs of" in done.stdout
    before, after = ((tmp_path / name).read_text().split("\n")[:-1] for name in ("before", "steps"))
    assert set(before) & set(after) == {"3 4", "3 5"}
    assert sorted(set(before) | set(after)) == [f"{job} {step}" for job in range(8) for step in range(6)]
    assert len(after) == 2 + 4 * 6


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [None, installed("joblib")])
def test_a_job_that_is_killed_is_a_failure_and_the_same_line_goes_on_with_it(
    launcher, process, fast, tmp_path, history
):
    """The second of four jobs kills its process in its fifth step; a launcher kills the one beside it then too."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    launched = () if launcher is None else (f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")
    steps = ("trainer.max_steps=6", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1")
    arguments = ("-m", "seed=0,1,2,3", *fast, *steps, "+callbacks.deadly._target_=deadly.Deadly", "trust=[deadly]")
    variables = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "kill").touch()
    done = process("train", *arguments, *launched, cwd=tmp_path, **variables)
    assert done.returncode == 1, done.stderr
    assert states(tmp_path) == ["finished", "failed", "finished", "finished"]
    assert f"train.py {shlex.join([*arguments, *launched])}" in done.stdout
    assert "error: 1 of 4 jobs failed; 1_seed-1: its process " in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "kill").unlink()
    done = process("train", *arguments, *launched, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["finished"] * 4
    for job in tmp_path.glob("outputs/sweeps/*/*_seed-*"):
        logged = [row["step"] for row in history(job) if row["train/loss"]]
        assert logged == ["1", "2", "3", "4", "5", "6"], job


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [installed("joblib"), installed("submitit_local")])
def test_a_launcher_runs_jobs_and_the_same_line_runs_those_that_failed(launcher, process, fast, tmp_path):
    arguments = ("-m", "optimizer.lr=0.001,1e30", "lr_scheduler.warmup_steps=0", *fast, f"hydra/launcher={launcher}")
    done = process("train", *arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert states(tmp_path) == ["finished", "failed"]
    assert "sweep: 0_optimizer.lr-0.001 finished after" in done.stdout
    assert f"train.py {shlex.join(arguments)}" in done.stdout
    assert "error: 1 of 2 jobs failed; 1_optimizer.lr-1e-30: the loss or a gradient became NaN" in done.stderr
    found = sorted(path.parent for path in tmp_path.glob("outputs/sweeps/*/*/config.yaml"))
    assert [path.name for path in found] == ["0_optimizer.lr-0.001", "1_optimizer.lr-1e-30"]
    kept = found[0] / "checkpoints" / "last.ckpt"
    changed = kept.stat().st_mtime_ns
    done = process("train", *arguments, cwd=tmp_path)
    assert "1 of 2 jobs of" in done.stdout
    assert done.returncode == 1
    assert kept.stat().st_mtime_ns == changed
    with_another = process("train", *arguments[:-1], cwd=tmp_path)  # the launcher is no part of the sweep
    assert "1 of 2 jobs of" in with_another.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [None, installed("joblib")])
def test_control_c_saves_the_running_jobs_and_prints_the_sweep(
    launcher, process, environment, fast, tmp_path, checkpoint
):
    launched = () if launcher is None else (f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")
    steps = ("trainer.max_steps=100000", "trainer.val_check_interval=90000", "trainer.log_every_n_steps=1")
    arguments = ("-m", "seed=0,1,2", *fast, *steps, *launched)
    started = subprocess.Popen(
        [sys.executable, str(SRC / "train.py"), *arguments],
        cwd=tmp_path,
        env={**environment, "TQDM_MININTERVAL": "0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = 1 if launcher is None else 2
    try:
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) == running, started)
        os.killpg(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130, err
    assert "Traceback" not in err
    assert out.splitlines()[-1].endswith(f"train.py {shlex.join(arguments)}")
    assert "resume=" not in out
    assert sorted(states(tmp_path)) == ["interrupted"] * running + ["waiting"] * (3 - running)
    saved = [checkpoint(path) for path in tmp_path.glob("outputs/sweeps/*/*") if (path / "config.yaml").exists()]
    assert len(saved) == running
    assert all(content["global_step"] > 0 for content in saved)


@pytest.mark.slow
def test_jobs_whose_sweep_was_killed_end_and_leave_no_process(environment, fast, tmp_path):
    """The launcher alone is killed: the running jobs finish, no further one begins, and their processes end."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    steps = ("trainer.max_steps=400", "trainer.log_every_n_steps=1", "trainer.val_check_interval=400")
    words = ("-m", "seed=0,1,2,3,4", *fast, *steps, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    output = (tmp_path / "output").open("w")
    started = subprocess.Popen(
        [sys.executable, str(SRC / "train.py"), *words],
        cwd=tmp_path,
        env=environment,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) == 2, started)
        started.kill()
        started.wait()
        deadline = time.monotonic() + 60
        while sorted(states(tmp_path)) != ["finished"] * 2 + ["waiting"] * 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert sorted(states(tmp_path)) == ["finished"] * 2 + ["waiting"] * 3
        while workers(started.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not workers(started.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def workers(session):
    """Return the processes of joblib that a session still has."""
    listed = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if line.split()[0] == str(session) and "LokyProcess" in line]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_distributed_jobs_have_the_folders_of_the_sweep(trainer, process, fast, tmp_path):
    done = process(
        "train", "-m", "seed=0,1", *fast, f"trainer={trainer}", "trainer.accelerator=cpu", cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["finished", "finished"]
    folders = {path.parent.relative_to(tmp_path).parts[3] for path in tmp_path.glob("outputs/**/last.ckpt")}
    assert len(list(tmp_path.glob("outputs/**/config.yaml"))) == 2
    assert [path.name for path in tmp_path.glob("outputs/*")] == ["sweeps"]
    assert len(folders) == 2
