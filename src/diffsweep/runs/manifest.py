"""The manifest of a sweep: the file ``sweep.json`` in its folder, with its command line and the state of each job.

The jobs keep it themselves, each change under a lock, so that it is true wherever they run: one after the other, side
by side, or in several terminals. A job also holds a lock of its own while it runs. The operating system releases it
when the process ends, so a job that is recorded as running, and whose lock is free, was killed.
"""

import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffsweep import shell
from diffsweep.comparison.records import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOCKS,
    MANIFEST,
    PREEMPTED,
    RUNNING,
    WAITING,
    stopped_state,
)
from diffsweep.errors import Failed, Stopped, UserError, line_of
from diffsweep.files import ContentError, DiskFull, write_text
from diffsweep.progress import duration
from diffsweep.runs.signals import state_after

UNFINISHED = (WAITING, INTERRUPTED, PREEMPTED)  # states of jobs that a search or the same line goes on with


def is_expected(error: BaseException) -> bool:
    """Return whether an error is shown in one line: a mistake, a wrong file, a full disk, NaN, a failed proof.

    A wrong file is one without the expected content, or one that the system cannot open.
    """
    of_a_file = isinstance(error, OSError) and error.filename is not None
    return of_a_file or isinstance(error, UserError | ContentError | DiskFull | FloatingPointError | Failed)


@dataclass
class JobRecord:
    """What the manifest records of a job.

    Attributes:
        name: of the job's folder in that of the sweep.
        overrides: those that the sweep varies, with the values of this job.
        state: ``waiting``, ``running``, ``finished``, ``failed``, ``interrupted`` or ``preempted``.
        error: why the job failed; None if it did not.
        seconds: how long the job has run, all its starts together.
        result: the number that sweeps compare, of a finished job; None if it has none.
    """

    name: str
    overrides: list[str]
    state: str = WAITING
    error: str | None = None
    seconds: float = 0.0
    result: float | None = None


class Manifest:
    """The states of the jobs of a sweep, kept in the file ``sweep.json``.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether the folder has a manifest."""
        return (self.folder / MANIFEST).is_file()

    def create(
        self, command: str, words: Sequence[str], jobs: Sequence[JobRecord], left_out: Mapping[int, str] | None = None
    ) -> None:
        """Write a new manifest, unless another process has just written it.

        Args:
            command: such as ``train``.
            words: the overrides of the command line, except those that decide where jobs run.
            jobs: in the order of their numbers, without those that are left out.
            left_out: the name of each job that is left out and the reason, by its number; None for no such job.
        """
        content = {"command": command, "words": list(words), "jobs": [asdict(job) for job in jobs]}
        with self._lock("manifest"):
            if not self.exists:
                self._write({**content, "left_out": {str(k): reason for k, reason in (left_out or {}).items()}})

    @property
    def left_out(self) -> dict[int, str]:
        """The names of the jobs that are left out, each with the reason, by their numbers in the command line."""
        return {int(k): reason for k, reason in self._read().get("left_out", {}).items()}

    def words(self, command: str, words: Sequence[str]) -> list[str]:
        """Return the words of the command line in the order in which the sweep was first typed, which numbers its jobs.

        Raises:
            UserError: the folder holds another sweep.
        """
        content = self._read()
        if content["command"] != command or sorted(content["words"]) != sorted(words):
            raise UserError(
                f"{shell.shown(self.folder)} holds another sweep, {shell.sweep(content['command'], content['words'])}; "
                "type that to go on with it, or give this one another folder"
            )
        return list(content["words"])

    @property
    def jobs(self) -> list[JobRecord]:
        """The records of the jobs as the file has them now, in the order of their numbers."""
        return [JobRecord(**job) for job in self._read()["jobs"]]

    def job(self, name: str) -> JobRecord:
        """Return the record of a job as the file has it now."""
        return next(job for job in self.jobs if job.name == name)

    def add(self, job: JobRecord) -> None:
        """Add a job at the end."""
        with self._changed() as content:
            content["jobs"].append(asdict(job))

    def update(self, name: str, **changes: Any) -> None:
        """Change values of the record of a job."""
        with self._changed() as content:
            next(job for job in content["jobs"] if job["name"] == name).update(changes)

    def settle(self, is_current: Callable[[JobRecord], bool]) -> None:
        """Correct the states before a sweep is continued: killed jobs are interrupted, and lost results made again.

        Args:
            is_current: returns whether the result of a finished job can be kept; otherwise the job is waiting again.
        """
        with self._changed() as content:
            for job in content["jobs"]:
                if job["state"] == RUNNING and not self.is_running(job["name"]):
                    job["state"] = stopped_state(self.folder / job["name"])
                elif job["state"] == FINISHED and not is_current(JobRecord(**job)):
                    job.update(asdict(JobRecord(job["name"], job["overrides"])))

    def try_again(self) -> None:
        """Let the jobs that have failed wait again, with the seconds of their earlier starts."""
        with self._changed() as content:
            for job in content["jobs"]:
                if job["state"] == FAILED:
                    job.update(state=WAITING, error=None)

    @property
    def dead(self) -> list[str]:
        """The names of the jobs that are recorded as running though no process runs them."""
        return [job.name for job in self.jobs if job.state == RUNNING and not self.is_running(job.name)]

    def fail_dead(self, error: str) -> list[str]:
        """Record the jobs as failed that are recorded as running though no process runs them; return their names.

        Args:
            error: why they failed.
        """
        found = []
        with self._changed() as content:
            for job in content["jobs"]:
                if job["state"] == RUNNING and not self.is_running(job["name"]):
                    job.update(state=FAILED, error=error)
                    found.append(job["name"])
        return found

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a lock of the sweep within the block, which one process has at a time while others wait.

        Args:
            name: of the lock; none of a job.
        """
        with self._lock(name):
            yield

    def is_running(self, name: str) -> bool:
        """Return whether a process is running a job now."""
        lock = self._lock(name)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False

    def run(self, name: str, work: Callable[[], Any]) -> None:
        """Run a job in this process, and record how it begins and ends; an error is recorded and printed, not raised.

        A job that has finished meanwhile, or that another process is running, is left to that process.

        Args:
            name: of the job.
            work: runs the job and returns its result.

        Raises:
            SystemExit: the job was stopped, such as by Ctrl-C.
        """
        lock = self._lock(name)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{name} is left to the process that runs it")
            return
        try:
            job = self.job(name)
            if job.state == FINISHED:
                return
            self.update(name, state=RUNNING, error=None)
            print(f"\n{self.heading(name)}", flush=True)
            begin = time.perf_counter()
            end: dict[str, Any] = {"state": INTERRUPTED}
            try:
                result = work()
                number = float(result) if isinstance(result, int | float) and math.isfinite(result) else None
                end = {"state": FINISHED, "result": number}
            except Exception as error:
                if not is_expected(error):
                    traceback.print_exc()
                reason = line_of(error)
                end = {"state": FAILED, "error": reason}
                print(f"{name} failed: {reason}", flush=True)
            except Stopped as stop:
                end = {"state": state_after(stop.code)}
                raise
            except SystemExit as error:  # of code that a job calls; it would end the whole sweep, with exit code 0 too
                end = {"state": FAILED, "error": f"the job called sys.exit({error.code!r})"}
                print(f"{name} failed: {end['error']}", flush=True)
            finally:
                self.update(name, **end, seconds=round(job.seconds + time.perf_counter() - begin, 1))
        finally:
            lock.release()

    def heading(self, name: str) -> str:
        """Return the line above the output of a job: its number, its name, and the time left for the whole sweep."""
        jobs = self.jobs
        number = next(k for k, job in enumerate(jobs) if job.name == name)
        left = time_left(jobs)
        return f"sweep: job {number + 1} of {len(jobs)}, {name}" + (f", about {duration(left)} left" if left else "")

    def ended(self, name: str) -> str:
        """Return a line on how a job ended, how many have finished, and the time left for the whole sweep."""
        jobs, job = self.jobs, self.job(name)
        finished, left = sum(job.state == FINISHED for job in jobs), time_left(jobs)
        how = f"{name} {job.state} after {duration(job.seconds)}; {finished} of {len(jobs)} have finished"
        return how + (f", about {duration(left)} left" if left else "")

    def _lock(self, name: str) -> FileLock:
        """Return a new lock, which is not held yet."""
        (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / LOCKS / f"{name}.lock")

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            [JobRecord(**job) for job in content["jobs"]]
            content["command"], content["words"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{shell.shown(path)} is no manifest of a sweep; delete it to make a new one") from error
        return content

    def _write(self, content: dict[str, Any]) -> None:
        write_text(self.folder / MANIFEST, json.dumps(content, indent=2) + "\n")

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """Give the content of the file to be changed, and write it at the end."""
        with self._lock("manifest"):
            content = self._read()
            yield content
            self._write(content)


def time_left(jobs: Sequence[JobRecord]) -> float | None:
    """Return an estimate of the seconds that a sweep still takes, from the jobs that have finished.

    Each other job counts as long as the mean of these, less what it has run before; jobs that failed are not counted.
    So many jobs as run now go on side by side. None before the first job has finished.
    """
    finished = [job.seconds for job in jobs if job.state == FINISHED]
    if not finished:
        return None
    mean = sum(finished) / len(finished)
    rest = [max(0.0, mean - job.seconds) for job in jobs if job.state in (*UNFINISHED, RUNNING)]
    running = sum(job.state == RUNNING for job in jobs)
    return sum(rest) / max(1, running)
