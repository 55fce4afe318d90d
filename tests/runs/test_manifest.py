"""The manifest of a sweep: states of jobs that several processes change, and the estimate of the time left."""

import multiprocessing
import os
import signal
import sys
import time
from functools import partial

import pytest

from diffsweep.errors import Stopped, UserError
from diffsweep.runs.launching import DIED, run_all
from diffsweep.runs.manifest import JobRecord, Manifest, time_left

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def manifest(tmp_path):
    """The manifest of a sweep of 20 jobs."""
    made = Manifest(tmp_path / "sweep")
    made.create("train", ["seed=range(20)"], [JobRecord(str(k), [f"seed={k}"]) for k in range(20)])
    return made


def states(manifest):
    return [job.state for job in manifest.jobs]


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_job_is_recorded_while_it_runs_and_when_it_ends(manifest, capsys):
    manifest.run("3", lambda: (states(manifest)[3] == "running" and manifest.is_running("3")) + 0.5)
    job = manifest.job("3")
    assert (job.state, job.error, job.result) == ("finished", None, 1.5)
    assert capsys.readouterr().out.strip() == "sweep: job 4 of 20, 3"
    assert not manifest.is_running("3")
    manifest.run("4", lambda: float("nan"))
    assert (manifest.job("4").state, manifest.job("4").result) == ("finished", None)


def test_a_job_that_fails_is_recorded_and_one_that_is_stopped_stops_the_sweep(manifest, capsys):
    def fail():
        raise UserError("no such option")

    def stop():
        raise Stopped(130)

    manifest.run("0", fail)
    assert (manifest.job("0").state, manifest.job("0").error) == ("failed", "no such option")
    assert capsys.readouterr().err == ""
    manifest.run("1", lambda: 1 / 0)
    assert manifest.job("1").error == "division by zero"
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(Stopped):
        manifest.run("2", stop)
    assert states(manifest)[:4] == ["failed", "failed", "interrupted", "waiting"]
    manifest.run("0", lambda: 2.0)
    assert (manifest.job("0").state, manifest.job("0").error) == ("finished", None)


@pytest.mark.parametrize("code", [0, "no such file"])
def test_a_job_that_exits_is_a_failure_and_ends_no_sweep(code, manifest, capsys):
    """With exit code 0 too, which would end the sweep as if all its jobs had been run."""
    manifest.run("0", lambda: sys.exit(code))
    assert (manifest.job("0").state, manifest.job("0").error) == ("failed", f"the job called sys.exit({code!r})")
    assert "0 failed: the job called sys.exit" in capsys.readouterr().out


@pytest.mark.parametrize("stopped", [[], [signal.SIGINT]])
def test_jobs_that_died_with_their_process_are_failures_and_the_others_run(stopped, manifest):
    """The launcher gives up when one of its two processes dies; the third job of each launch kills it."""
    launches = []

    class Launcher:
        def launch(self, words, initial_job_idx):
            launches.append([name for (name,) in words])
            for (name,) in words:
                if name in ("2", "5"):
                    process = FORK.Process(target=lambda own=name: manifest.run(own, lambda: os._exit(0)))
                    process.start()
                    process.join()
                    raise RuntimeError("A worker process was unexpectedly terminated")
                manifest.run(name, lambda: 1.0)

    words = {job.name: [job.name] for job in manifest.jobs[:7]}
    if stopped:
        with pytest.raises(RuntimeError):
            run_all(manifest, words, Launcher(), stopped)
        assert len(launches) == 1
        return
    run_all(manifest, words, Launcher(), stopped)
    assert launches == [["0", "1", "2", "3", "4", "5", "6"], ["3", "4", "5", "6"], ["6"]]
    assert states(manifest)[:8] == ["finished"] * 2 + ["failed"] + ["finished"] * 2 + ["failed", "finished", "waiting"]
    assert manifest.job("2").error == DIED


def test_of_jobs_that_died_side_by_side_each_goes_on_alone(manifest):
    """The launcher runs two at a time and kills both when one of them dies, as joblib does."""
    launches = []

    class Launcher:
        def launch(self, words, initial_job_idx):
            launches.append([name for (name,) in words])
            for pair in zip(words[::2], [*words[1::2], None], strict=False):
                names = [own[0] for own in pair if own]
                if "1" not in names:
                    for name in names:
                        manifest.run(name, lambda: 1.0)
                    continue
                for name in names:
                    process = FORK.Process(target=lambda own=name: manifest.run(own, lambda: os._exit(0)))
                    process.start()
                    process.join()
                raise RuntimeError("A worker process was unexpectedly terminated")

    run_all(manifest, {job.name: [job.name] for job in manifest.jobs[:4]}, Launcher(), [])
    assert launches == [["0", "1", "2", "3"], ["2", "3"], ["0"], ["1"]]
    assert states(manifest)[:4] == ["finished", "failed", "finished", "finished"]


def test_a_launcher_that_gives_up_without_a_dead_job_is_an_error(manifest):
    class Launcher:
        def launch(self, words, initial_job_idx):
            raise RuntimeError("no cluster")

    with pytest.raises(RuntimeError, match="no cluster"):
        run_all(manifest, {"0": ["0"]}, Launcher(), [])
    assert set(states(manifest)) == {"waiting"}


def test_seconds_add_up_over_the_starts_of_a_job(manifest):
    manifest.update("0", seconds=100.0, state="interrupted")
    manifest.run("0", lambda: time.sleep(0.2))
    assert manifest.job("0").seconds == pytest.approx(100.2, abs=0.15)


def test_processes_share_the_jobs_and_lose_no_change(manifest):
    """Four processes take all twenty jobs in order; each job runs once."""
    lines = manifest.folder / "lines"

    def work(name):
        with lines.open("a") as file:
            file.write(f"{name}\n")
        time.sleep(0.01)
        return float(name)

    def take_all():
        for job in manifest.jobs:
            manifest.run(job.name, partial(work, job.name))

    processes = [FORK.Process(target=take_all) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(map(int, lines.read_text().split())) == list(range(20))
    assert [job.result for job in manifest.jobs] == list(range(20))


def test_a_killed_job_is_interrupted_and_a_running_one_is_left_alone(manifest, capsys):
    process = FORK.Process(target=lambda: manifest.run("5", lambda: time.sleep(60)))
    process.start()
    wait_for(lambda: states(manifest)[5] == "running")
    manifest.settle(lambda job: True)
    assert states(manifest)[5] == "running"
    manifest.run("5", lambda: pytest.fail("it runs already"))
    assert "5 is left to the process that runs it" in capsys.readouterr().out
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert states(manifest)[5] == "running"  # nobody could write
    manifest.settle(lambda job: True)
    assert states(manifest)[5] == "interrupted"


def test_a_job_that_a_scheduler_stopped_is_preempted(manifest):
    """It is so even if it was killed before its process could end, and it counts among the time left."""

    def stop():
        raise Stopped(143)

    with pytest.raises(Stopped):
        manifest.run("2", stop)
    assert states(manifest)[2] == "preempted"
    manifest.update("3", state="running")
    manifest.update("4", state="running")
    (manifest.folder / "3").mkdir()
    (manifest.folder / "3" / "stopped.json").write_text('{"state": "preempted", "step": 7}')
    manifest.settle(lambda job: True)
    assert states(manifest)[2:6] == ["preempted", "preempted", "interrupted", "waiting"]
    assert time_left([JobRecord("0", [], "finished", None, 8.0), JobRecord("1", [], "preempted", None, 3.0)]) == 5


def test_a_result_that_is_lost_is_made_again(manifest):
    for name in ("0", "1"):
        manifest.run(name, lambda: 1.0)
    manifest.settle(lambda job: job.name == "1")
    assert manifest.job("0") == JobRecord("0", ["seed=0"])
    assert states(manifest)[:2] == ["waiting", "finished"]


def test_the_time_left_is_that_of_the_mean_job(manifest):
    def jobs(*states_and_seconds):
        return [JobRecord(str(k), [], state, None, float(s)) for k, (state, s) in enumerate(states_and_seconds)]

    waiting = [("waiting", 0)] * 3
    assert time_left(jobs(*waiting)) is None
    assert time_left(jobs(("finished", 10), ("finished", 20), *waiting)) == 45
    # Of the interrupted job 5 seconds are left; one that failed is not run again by itself.
    assert time_left(jobs(("finished", 15), ("interrupted", 10), ("failed", 3), *waiting)) == 50
    assert time_left(jobs(("finished", 15), ("running", 0), ("running", 0), *waiting)) == 37.5
    assert time_left(jobs(("finished", 15), ("interrupted", 99))) == 0
    manifest.update("0", state="finished", seconds=30.0)
    manifest.update("1", state="running")
    assert manifest.heading("1") == "sweep: job 2 of 20, 1, about 9 min 30 s left"
