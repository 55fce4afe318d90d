"""A job that ends its process is one failed job of a sweep: the supervisor lets another worker run those that are left.

The workers here record jobs without any training, and without torch; ``test_sweep_processes.py`` has whole sweeps.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffsweep.runs.manifest import JobRecord, Manifest
from diffsweep.runs.supervising import Supervisor, is_needed, supervise, why

SRC = Path(__file__).parents[2] / "src"
WORKER = """
import ctypes, os, pathlib, signal, subprocess, sys, time
from diffsweep.runs.manifest import UNFINISHED, Manifest
from diffsweep.runs.signals import handling
from diffsweep.runs.supervising import worker

def work(name):
    with open("tried", "a") as file:
        file.write(name + chr(10))
    action, _, number = name.partition("-")
    if action == "exit":
        os._exit(int(number))
    if action == "child":  # which holds the lock of the job for a moment more
        os.fork() or (time.sleep(0.3), os._exit(0))
    if action in ("kill", "child"):
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "segfault":
        ctypes.string_at(0)
    if action == "raise":
        raise FloatingPointError("the loss became NaN")
    if action == "signal":
        os.kill(os.getppid(), int(number))
        time.sleep(30)
    if action == "wait":
        pathlib.Path("waits").touch()
        time.sleep(30)
    return 1.0

worker.begin()
manifest = Manifest(pathlib.Path.cwd())
worker.report(manifest.folder)
with handling():
    for job in manifest.jobs:
        if job.state in UNFINISHED:
            manifest.run(job.name, lambda: work(job.name))
sys.exit(int(any(job.state == "failed" for job in manifest.jobs)))
"""
COMMAND = [sys.executable, "-c", WORKER]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """``manifest = sweep(*names)`` makes the manifest of jobs, named by what they do, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SRC))

    def sweep(*names):
        manifest = Manifest(tmp_path)
        manifest.create("train", [], [JobRecord(name, []) for name in names])
        return manifest

    return sweep


def test_jobs_that_end_their_process_are_failures_and_each_job_runs_once(sweep, capfd, tried):
    manifest = sweep("do-0", "kill-1", "exit-0", "do-1", "raise-1", "child-1")
    tried(kills=2, faults=2)
    assert supervise(COMMAND) == 1
    errors = {job.name: job.error for job in manifest.jobs}
    assert [job.state for job in manifest.jobs] == ["finished", "failed", "failed", "finished", "failed", "failed"]
    assert "SIGKILL, as the system does when memory runs out" in errors["kill-1"]
    assert "exit code 0, as by os._exit(0)" in errors["exit-0"]
    assert errors["raise-1"] == "the loss became NaN"
    assert Path("tried").read_text().split() == list(errors)
    assert f"kill-1 failed: {errors['kill-1']}" in capfd.readouterr().out


@pytest.mark.parametrize(
    "number, code, state", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "preempted")]
)
def test_a_signal_reaches_the_worker_once_and_no_further_one_is_started(number, code, state, sweep):
    manifest = sweep(f"signal-{int(number)}", "do-1")
    assert supervise(COMMAND) == code
    assert [job.state for job in manifest.jobs] == [state, "waiting"]


def test_a_worker_that_dies_without_a_job_is_not_started_again(sweep, capfd):
    manifest = sweep("do-0")
    assert supervise([sys.executable, "-c", "import os; os._exit(3)"]) == 3
    assert capfd.readouterr().err.startswith(
        "error: the process of the sweep ended while it ran no job: its process was"
    )
    assert manifest.job("do-0").state == "waiting"


def test_a_worker_whose_supervisor_was_killed_stops(sweep):
    manifest = sweep("wait-1", "do-1")
    code = f"from diffsweep.runs.supervising import supervise; supervise({COMMAND!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as started:
        until = time.monotonic() + 60
        while not Path("waits").exists() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(started.pid, signal.SIGKILL)
    while manifest.job("wait-1").state == "running" and time.monotonic() < until:
        time.sleep(0.02)
    assert [job.state for job in manifest.jobs] == ["preempted", "waiting"]


def test_control_z_suspends_the_worker_and_what_continues_continues_it(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
    supervisor = Supervisor()
    supervisor.suspend(signal.SIGTSTP, None)
    assert sent == []  # no worker has started yet
    supervisor._running = type("Running", (), {"pid": 7, "returncode": None})()
    supervisor.suspend(signal.SIGTSTP, None)
    assert sent == [(7, signal.SIGSTOP), (os.getpid(), signal.SIGSTOP), (7, signal.SIGCONT)]


@pytest.mark.parametrize(
    "words, variables, needed",
    [
        (["-m", "seed=0,1"], {}, True),
        (["seed=0,1", "--multirun", "hydra/sweeper=optuna"], {}, True),
        (["seed=0"], {}, False),
        (["-m", "seed=0,1", "--help"], {}, False),
        (["-m", "seed=0,1", "--cfg", "job"], {}, False),
        (["-m", "seed=0,1", "hydra/launcher=joblib"], {}, False),
        (["-m", "seed=0,1"], {"LOCAL_RANK": "0"}, False),
    ],
)
def test_sweeps_without_a_launcher_are_supervised(words, variables, needed, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", *words])
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_needed(words) is needed


def test_words_that_are_not_of_this_process_start_no_other_one():
    """As in a notebook, whose own command line would be started again."""
    assert not is_needed(["-m", "seed=0,1"])


def test_the_reason_names_the_signal():
    assert why(-signal.SIGSEGV) == "its process was ended by SIGSEGV"
    assert why(7) == "its process was ended with exit code 7, as by os._exit(7)"
