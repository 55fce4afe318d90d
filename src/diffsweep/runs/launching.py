"""Jobs of a sweep in processes that a launcher of Hydra's starts: joblib on this machine, submitit on a cluster."""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback as HydraCallback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.comparison.records import FAILED, FINISHED, INTERRUPTED, MANIFEST, PREEMPTED
from diffsweep.configuration.compose import Composed
from diffsweep.configuration.conf import CONF
from diffsweep.configuration.explain import explained
from diffsweep.configuration.jobs import launcher_of
from diffsweep.errors import Failed, Stopped
from diffsweep.runs.functions import finish_and_start
from diffsweep.runs.job_processes import give_processes, number_tasks, run_or_follow
from diffsweep.runs.manifest import UNFINISHED, Manifest
from diffsweep.runs.signals import CODES, handling, stop

DIED = "its process has died: it was killed, was short of memory, or called os._exit"
POLLED = 1.0  # seconds between looks at the manifest
_stopped: list[int] = []  # the exit code of a stopped job: a process that was stopped starts no further jobs


def launch(manifest: Manifest, command: str, overrides: Sequence[str], every: Sequence[Composed]) -> None:
    """Run jobs of a sweep by the launcher that the command line chooses, print how each ends, and wait for all.

    Args:
        manifest: of the sweep.
        command: such as ``train``.
        overrides: of the command line.
        every: the jobs.

    Raises:
        UserError: the launcher has no such key.
        Failed: the launcher could not start or finish the jobs.
        Stopped: Ctrl-C; the jobs have ended their steps and saved them.
    """
    _let_processes_find_the_package()
    with explained(command, overrides), initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        cfg = hydra.compose_config(command, list(overrides), RunMode.MULTIRUN)
        give_processes(cfg.hydra.launcher, overrides, [job.cfg for job in every])
        callbacks: Any = HydraCallback()  # its methods are those of the list of callbacks that Hydra has itself
        context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
        launcher = Plugins.instance().instantiate_launcher(context, functools.partial(_run, command), cfg)
        words = [[*job.words, shell.override("hydra.sweep.subdir", job.name)] for job in every]
        print(
            f"{len(every)} jobs are started; their states are in {shell.shown(manifest.folder / MANIFEST)}", flush=True
        )
        with _reported(manifest), _waiting_for_jobs() as received:
            named = {job.name: own for job, own in zip(every, words, strict=True)}
            try:
                run_all(manifest, named, launcher, received)
            except RuntimeError as error:  # no cluster; errors of jobs are in the manifest
                raise Failed(f"hydra/launcher={launcher_of(overrides)}: {' '.join(str(error).split())}") from error


def run_all(manifest: Manifest, words: Mapping[str, list[str]], launcher: Any, stopped: Sequence[int]) -> None:
    """Let a launcher run jobs, and again those that are left if a job has killed its process.

    A launcher such as joblib gives up all jobs when one of its processes dies. If several were running then, each of
    them goes on alone after the others, which shows which one it is that dies: that one is recorded as failed.

    Args:
        manifest: of the sweep.
        words: the overrides of each job by its name.
        launcher: of Hydra.
        stopped: the signals received so far; after one nothing is started any more.

    Raises:
        RuntimeError: the launcher could not start the jobs, or it gave up and no job had died.
    """
    left, suspects = dict(words), list[str]()
    while left:
        try:
            launcher.launch(list(left.values()), initial_job_idx=0)
            left = {}
        except RuntimeError:
            _settled(manifest, left)
            dead = manifest.dead
            if stopped or not dead:
                raise
            if len(dead) == 1:
                manifest.fail_dead(DIED)
            else:
                manifest.settle(lambda job: True)
                suspects += dead
            waiting = {job.name for job in manifest.jobs if job.state in UNFINISHED}
            left = {name: own for name, own in left.items() if name in waiting and name not in suspects}
        if not left and suspects:
            name = suspects.pop(0)
            left = {name: words[name]}


def _run(command: str, cfg: DictConfig) -> None:
    """Run a job in the process of a launcher; its result and its errors go into the manifest of the sweep."""
    hydra = HydraConfig.get()
    name = Path(hydra.runtime.output_dir).name
    work = functools.partial(finish_and_start, command, cfg)

    launcher = os.getppid()
    if not _stopped:
        manifest = Manifest(Path(hydra.sweep.dir).absolute())
        number_tasks()
        try:
            with handling():
                run_or_follow(manifest, name, work)
        except Stopped as stop:
            _stopped.append(int(stop.code or 0))
    if os.getppid() != launcher:  # it was killed, and this process would wait for its next job forever
        os._exit(1)


def _let_processes_find_the_package() -> None:
    """Put the folder of the package into PYTHONPATH, since a launcher starts other programs than train.py."""
    folder = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH", "")
    if folder not in before.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))


def _settled(manifest: Manifest, names: Iterable[str], seconds: float = 30.0) -> None:
    """Wait until no process runs one of the jobs: a launcher that gives up ends its processes a moment later."""
    until = time.monotonic() + seconds
    while any(manifest.is_running(name) for name in names) and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def _reported(manifest: Manifest) -> Iterator[None]:
    """Print within the block how each job ends, since the output of jobs on other machines goes elsewhere."""
    over = threading.Event()

    def report() -> None:
        states = {job.name: job.state for job in manifest.jobs}
        last = False
        while not last:
            last = over.wait(POLLED)
            for job in manifest.jobs:
                if job.state != states[job.name] and job.state in (FINISHED, FAILED, INTERRUPTED, PREEMPTED):
                    print(f"sweep: {manifest.ended(job.name)}", flush=True)
                states[job.name] = job.state

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _waiting_for_jobs() -> Iterator[list[int]]:
    """Wait within the block for the jobs, which receive Ctrl-C too, to save a whole step; a second one ends the wait.

    The block gets the list of the signals received so far.

    Raises:
        Stopped: at the end of the block, after Ctrl-C.
    """
    received: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            stop(number, frame)
        print("\nwaits for the jobs to save their steps; Ctrl-C again ends them at once", flush=True)

    try:
        with handling({signal.SIGINT: wait}):
            yield received
    except Exception:
        if not received:
            raise
    if received:
        raise Stopped(CODES[signal.SIGINT])
