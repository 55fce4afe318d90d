"""Sweeps: the jobs of one command line, which the same line goes on with after any end.

Jobs that have finished are skipped, interrupted ones go on from their checkpoints, and failed ones are tried again. The
states of the jobs are in the sweep's manifest (:mod:`diffsweep.runs.manifest`).
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffsweep import shell
from diffsweep.comparison.records import FAILED, FINISHED, RUNNING
from diffsweep.configuration.compose import Composed, compose_job
from diffsweep.configuration.jobs import jobs, launcher_of, parsed, swept_keys
from diffsweep.configuration.resolvers import LAUNCHER, SWEEP, SWEPT, sweep_name
from diffsweep.errors import Failed, LeftOut, Stopped, UserError, line_of
from diffsweep.processes import started
from diffsweep.runs.functions import start, summary_of
from diffsweep.runs.job_processes import refuse_processes
from diffsweep.runs.launching import launch
from diffsweep.runs.manifest import UNFINISHED, JobRecord, Manifest
from diffsweep.runs.signals import handling
from diffsweep.runs.supervising import worker

MEASURES_CODE = ("verify", "benchmark")  # commands whose results are of the code as it is now, and are made again


def run_sweep(command: str, overrides: Sequence[str]) -> None:
    """Run the jobs of a sweep that have not finished; one that fails does not stop the others.

    They run one after the other, or where the launcher starts them that the command line chooses.

    Args:
        command: such as ``train``.
        overrides: of the command line.

    Raises:
        UserError: an override is wrong, or the folder of the sweep holds another one. Then nothing was started.
        Failed: jobs have failed, after the others were run.
        Stopped: the sweep was stopped by Ctrl-C or SIGTERM.
    """
    launcher = launcher_of(overrides)
    if launcher is None and (count := started() or 1) > 1:
        raise UserError(
            f"-m runs one job after the other, and {count} processes were started for the sweep; start one, or let "
            "hydra/launcher=submitit_slurm start the processes of each job"
        )
    manifest, every = prepare(command, overrides)
    if every and all(manifest.is_running(job.name) for job in every):
        raise UserError(
            f"all {len(every)} jobs of {shell.shown(manifest.folder)} that have not finished are run by other "
            "processes now; the same line takes what they leave"
        )
    line = shell.sweep(command, overrides)
    with printed_when_stopped(line), handling():
        if every and launcher:
            launch(manifest, command, overrides, every)
        else:
            for job in every:
                manifest.run(job.name, functools.partial(start_alone, job))
    conclude(manifest, line, summary_of(command))


def prepare(command: str, overrides: Sequence[str]) -> tuple[Manifest, list[Composed]]:
    """Check the jobs of a sweep, and write its manifest or correct that of an earlier start.

    Returns:
        The manifest, and the jobs that are still to be run: those that have not finished, and in the place of a worker
        that has died (:mod:`diffsweep.runs.supervising`) those that it has not tried.

    Raises:
        UserError: as :func:`run_sweep`.
    """
    os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, overrides), ",".join(swept_keys(overrides))
    words = [override for override in overrides if not override.startswith(LAUNCHER)]
    first = compose_job(command, jobs(words)[0], 0)
    manifest, states = Manifest(first.sweep_dir), dict[int, str]()
    numbers: Sequence[int] = range(len(jobs(words)))
    if manifest.exists:
        if (before := manifest.words(command, words)) != words:
            words = before
            first = compose_job(command, jobs(words)[0], 0)
        each = jobs(words)
        numbers = [k for k in range(len(each)) if k not in manifest.left_out]
        by_name = {job.name: each[k] for k, job in zip(numbers, manifest.jobs, strict=True)}
        measured_now = command in MEASURES_CODE

        def is_kept(job: JobRecord) -> bool:
            return not worker.first or (not measured_now and is_current(manifest.folder, job, by_name))

        manifest.settle(is_kept)
        states = {k: job.state for k, job in zip(numbers, manifest.jobs, strict=True)}
    each = jobs(words)
    left = (lambda state: state != FINISHED) if worker.first else (lambda state: state in UNFINISHED)
    chosen = {
        k: first if k == 0 else compose_job(command, each[k], k) for k in numbers if not states or left(states[k])
    }
    refuse_processes(command, overrides, [job.cfg for job in chosen.values()])
    left_out = checked(chosen)
    if states and left_out:  # the sweep has begun with these jobs
        raise UserError(next(iter(left_out.values())))
    every = [job for k, job in chosen.items() if k not in left_out]
    if not states:
        records = _records(words, {k: job for k, job in chosen.items() if k not in left_out})
        manifest.create(command, words, records, left_out)
    elif worker.first:
        manifest.try_again()
    worker.report(manifest.folder)
    if states and worker.first and (done := len(states) - len(every)):
        print(
            f"{done} of {len(states)} jobs of {shell.shown(manifest.folder)} have finished before and keep their "
            "results; delete the folder of a job to run it again"
        )
    return manifest, every


def checked(every: Mapping[int, Composed]) -> dict[int, str]:
    """Check the configurations of jobs, and return the names of those that are left out and why, by their numbers.

    Args:
        every: the jobs by their numbers.

    Raises:
        UserError: the configuration of a job is wrong, all jobs would be left out, or jobs have the same folder.
    """
    from diffsweep.configuration.preflight import preflight  # imports torch, after the words have been read

    left_out: dict[int, str] = {}
    for number, job in every.items():
        try:
            preflight(job.cfg)
        except LeftOut as error:
            if len(left_out) + 1 == len(every):
                raise
            left_out[number] = f"{job.name}: {line_of(error)}"
    if len({job.name for job in every.values()}) < len(every):
        name = next(iter(every.values())).name
        raise UserError(f"jobs of the sweep have the same folder, {name}; leave out hydra.sweep.subdir")
    return left_out


def _records(words: Sequence[str], every: Mapping[int, Composed]) -> list[JobRecord]:
    """Return a record of each job of a new sweep, by number, with the overrides that the sweep varies."""
    varied, each = [k for k, override in enumerate(parsed(words)) if override.is_sweep_override()], jobs(words)
    return [JobRecord(job.name, [each[number][k] for k in varied]) for number, job in every.items()]


def is_current(folder: Path, job: JobRecord, overrides: dict[str, list[str]]) -> bool:
    """Return whether a finished job still has its results, and these are newer than the run that they are of.

    Args:
        folder: of the sweep.
        job: the record of the job.
        overrides: all overrides of each job, by its name.
    """
    from diffsweep.callbacks.checkpoints import FOLDER, LAST

    made = [path.stat().st_mtime for path in (folder / job.name).glob("*") if path.is_file()]
    runs = [str(override.value()) for override in parsed(overrides[job.name]) if override.key_or_group == "run"]
    read = [path.stat().st_mtime for run in runs if (path := Path(run) / FOLDER / LAST).is_file()]
    return bool(made) and max(made) >= max(read, default=0.0)


def start_alone(job: Composed) -> Any:
    """Run a job with words, variables and further processes of its own.

    The further processes of a distributed run repeat the command line of this one, which would be the whole sweep.
    Lightning leaves its variables and its process group behind, so that the next run would start no processes.
    """
    from diffsweep.layers.distributed import leave  # torch was imported by the checks of the jobs

    words, variables = sys.argv[1:], dict(os.environ)
    sys.argv[1:] = job.words
    try:
        return start(job)
    finally:
        sys.argv[1:] = words
        os.environ.clear()
        os.environ.update(variables)
        leave()


@contextmanager
def printed_when_stopped(command_line: str) -> Iterator[None]:
    """Print the command line of a sweep, which goes on with it, where a signal ends the block."""
    try:
        yield
    except Stopped:
        print(f"\nthe sweep was stopped; this goes on with it:\n  {command_line}", flush=True)
        raise


def conclude(manifest: Manifest, command_line: str, summary: Callable[[Path], object] | None) -> None:
    """Summarise a sweep whose jobs have been run, and print which have failed and why.

    Args:
        manifest: of the sweep.
        command_line: of the sweep.
        summary: called with the folder of the sweep, if a job has finished.

    Raises:
        Failed: jobs have failed.
    """
    summarise(manifest, summary)
    records = manifest.jobs
    if left_out := list(manifest.left_out.values()):
        names = ", ".join(reason.partition(":")[0] for reason in left_out)
        print(f"\n{len(left_out)} of {len(left_out) + len(records)} jobs are left out: {names}\n  {left_out[0]}")
    if running := [job.name for job in records if job.state == RUNNING]:
        print(f"\n{len(running)} of {len(records)} jobs are run by other processes still: {', '.join(running)}")
    if failed := [job for job in records if job.state == FAILED]:
        count = f"{len(failed)} of {len(records)} jobs failed"
        print(f"\n{count}; this tries them again:\n  {command_line}\n{reasons(failed)}")
        raise Failed(f"{count}; {failed[0].name}: {failed[0].error}")


def summarise(manifest: Manifest, summary: Callable[[Path], object] | None) -> None:
    """Call the summary of a command with the folder of a sweep, if a job has finished."""
    if summary is not None and any(job.state == FINISHED for job in manifest.jobs):
        summary(manifest.folder)


def reasons(failed: Sequence[JobRecord]) -> str:
    """Return a line for each failed job, with the reason."""
    return "\n".join(f"  {job.name}: {job.error}" for job in failed)
