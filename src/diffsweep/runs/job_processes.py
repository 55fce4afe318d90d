"""The processes of a training, one for each device of each machine, where several are started apart."""

import os
import traceback
from collections.abc import Callable, Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, open_dict

from diffsweep.comparison.records import FINISHED
from diffsweep.configuration.compose import Composed, register
from diffsweep.configuration.conf import CONF
from diffsweep.configuration.explain import explained
from diffsweep.configuration.jobs import ELSEWHERE, launcher_of
from diffsweep.errors import UserError, line_of
from diffsweep.processes import started, starts_first
from diffsweep.runs.manifest import Manifest, is_expected

ALONE = (1, 1)  # machines and processes of a job
OF_A_CLUSTER = "partition"  # a key of launchers whose jobs run on other machines


def refuse_own_folders(job: Composed) -> None:
    """Raise a UserError if a new run has processes that are started apart, each of which would name its own folder.

    Args:
        job: a run that is no job of a sweep.

    Raises:
        UserError: no folder is typed.
    """
    if not _trains(job.cfg) or job.cfg.resume_from is not None:
        return
    nodes, count = job.cfg.trainer.get("num_nodes", 1), started() or 1
    several = count > 1 or (isinstance(nodes, int) and nodes > 1)  # a number below 1 is refused by a rule
    if not several or any(word.startswith(("paths.run_dir=", "hydra.run.dir=")) for word in job.words):
        return
    of = f"{count} processes that were started" if count > 1 else f"{nodes} machines of trainer.num_nodes={nodes}"
    raise UserError(f"paths.run_dir is missing: the {of} need one folder in common; type paths.run_dir=DIR for each")


def _trains(cfg: DictConfig) -> bool:
    """Return whether a job is a training."""
    return "resume_from" in cfg


def refuse_processes(command: str, overrides: Sequence[str], every: Sequence[DictConfig]) -> None:
    """Raise a UserError if jobs of a sweep need processes that their launcher does not start.

    Args:
        command: such as ``train``.
        overrides: of the command line.
        every: the configurations of the jobs.

    Raises:
        UserError: several machines without a launcher, or as :func:`give_processes`.
    """
    if (needed := _needed(every)) <= {ALONE}:
        return
    if launcher_of(overrides) is None:
        if (nodes := max(nodes for nodes, _ in needed)) > 1:
            raise UserError(
                f"trainer.num_nodes={nodes}: -m runs its jobs on this machine; with hydra/launcher=submitit_slurm each "
                "job has processes on so many"
            )
        return
    own = [word for word in overrides if word.replace("/", ".").startswith(ELSEWHERE)]
    register(command)
    with explained(command, own), initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        hydra = hydra_compose(command, overrides=own, return_hydra_config=True).hydra
    with open_dict(hydra):
        give_processes(hydra.launcher, overrides, every)


def _needed(every: Sequence[DictConfig]) -> set[tuple[int, int]]:
    """Return the numbers of machines and of processes that jobs need which train; others are of one process."""
    training = [cfg for cfg in every if _trains(cfg)]
    if all((cfg.trainer.get("num_nodes", 1), cfg.trainer.devices) == ALONE for cfg in training):
        return {ALONE}
    from diffsweep.runs.machine import processes_of  # imports torch

    return {(int(cfg.trainer.get("num_nodes", 1)), processes_of(cfg)) for cfg in training}


def give_processes(settings: DictConfig, overrides: Sequence[str], every: Sequence[DictConfig]) -> None:
    """Let a launcher start for each job as many processes on as many machines as its trainer has.

    ``hydra.launcher.nodes`` and ``tasks_per_node`` are those of ``trainer.num_nodes`` and ``trainer.devices``.

    Args:
        settings: of the launcher; they are changed in place.
        overrides: of the command line.
        every: the configurations of the jobs.

    Raises:
        UserError: the launcher starts one process for a job and a job needs several, or it starts none on other
            machines and a job needs several of them; jobs need different numbers, or other numbers are typed.
    """
    if (needed := _needed(every)) <= {ALONE}:
        return
    if len(needed) > 1:
        raise UserError(
            "trainer.devices and trainer.num_nodes are swept, and a launcher starts as many processes for each job; "
            "type a sweep for each of their values"
        )
    ((nodes, processes),) = needed
    if "tasks_per_node" not in settings:
        raise UserError(
            f"hydra/launcher={launcher_of(overrides)} starts one process for a job, and the trainer has {processes}; "
            "leave it out, or use hydra/launcher=submitit_slurm"
        )
    if nodes > 1 and OF_A_CLUSTER not in settings:
        raise UserError(
            f"hydra/launcher={launcher_of(overrides)} starts processes on this machine alone, and trainer.num_nodes="
            f"{nodes}; use hydra/launcher=submitit_slurm, or trainer.num_nodes=1"
        )
    for key, number in (("nodes", nodes), ("tasks_per_node", processes // nodes)):
        typed = any(word.startswith(f"hydra.launcher.{key}=") for word in overrides)
        if typed and settings[key] != number:
            raise UserError(
                f"hydra.launcher.{key}={settings[key]}, and the trainer has {number}; leave it out: it follows from "
                "trainer.num_nodes and trainer.devices"
            )
        settings[key] = number


def number_tasks() -> None:
    """Put the number of this process into the environment if submitit has started several for the job."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if (job := JobEnvironment()).num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["NODE_RANK"] = str(job.node)


def run_or_follow(manifest: Manifest, name: str, work: Callable[[], object]) -> None:
    """Run a job in one of its processes: the first one records how it begins and ends, and the others print errors.

    Args:
        manifest: of the sweep.
        name: of the job.
        work: runs the job and returns its result.
    """
    if starts_first():
        manifest.run(name, work)
        return
    if manifest.job(name).state == FINISHED:
        return
    try:
        work()
    except Exception as error:
        if not is_expected(error):
            traceback.print_exc()
        print(f"{name}: {line_of(error)}", flush=True)
