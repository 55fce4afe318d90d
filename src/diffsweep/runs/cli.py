"""Run the commands from the command line. It imports Hydra alone; torch is imported when a command really runs."""

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from diffsweep.errors import Failed, UserError
from diffsweep.files import ContentError

if TYPE_CHECKING:
    from diffsweep.configuration.compose import Composed

TASKS = {
    "train": "diffsweep.runs.training:train",
    "evaluate": "diffsweep.runs.commands:evaluate",
    "sample": "diffsweep.runs.commands:sample",
    "benchmark": "diffsweep.runs.benchmarking:benchmark",
    "verify": "diffsweep.runs.verification:verify",
}
SUMMARIES = {  # functions of the folder of a sweep whose jobs have all run
    "evaluate": "diffsweep.runs.evaluation:summarise",
    "verify": "diffsweep.runs.verification:summarise",
}
FULL_ERROR = "HYDRA_FULL_ERROR"
HELP = {"-h", "--help"}


def main(command: str) -> None:
    """Run a command, such as ``train``, with the arguments of this process, ``sys.argv``.

    An expected error ends the process with one line: with exit code 2 for a user's mistake, with 1 for an unreadable
    file, a loss that is NaN or a failed check. Other errors, and all with ``HYDRA_FULL_ERROR=1``, are raised with their
    stack trace.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
    """
    # Imports and configurations live on, and collecting garbage among them costs each start a second or two.
    gc.set_threshold(50_000)
    wants_trace = os.environ.get(FULL_ERROR) == "1"
    sys.argv[1:] = reordered(sys.argv[1:])
    try:
        if HELP & set(sys.argv[1:]):
            _print_help(command)
        else:
            _run(command)
    except Exception as error:
        if wants_trace or not _is_expected(error):
            raise
        sys.exit(_print_error(error))


def _is_expected(error: BaseException) -> bool:
    """Return whether an error is shown in one line: a mistake, a wrong file, a divergence, or a proof that failed."""
    return isinstance(error, UserError | ContentError | FloatingPointError | Failed)


def _print_error(error: Exception) -> int:
    """Print the line of an error and return the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def reordered(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with ``-m`` (``--multirun``) first, since argparse refuses it after overrides."""
    from diffsweep.configuration.jobs import SWITCHES

    return sorted(arguments, key=lambda argument: argument not in SWITCHES)


def _print_help(command: str) -> None:
    """Print the help of a command, or of the groups, options and keys that its arguments name.

    Hydra's own help takes seconds.
    """
    from diffsweep.configuration.help import help_text

    print(help_text(command, [argument for argument in sys.argv[1:] if not argument.startswith("-")]))


def _run(command: str) -> None:
    from diffsweep.configuration.arguments import read_arguments
    from diffsweep.configuration.compose import compose_job, register
    from diffsweep.configuration.jobs import (
        check_is_no_sweep,
        jobs,
        run_by_hydra,
        swept_keys,
        with_sweep_of_experiment,
        words_for_hydra,
    )
    from diffsweep.configuration.moved import with_new_names
    from diffsweep.configuration.resolvers import SWEEP, SWEPT, sweep_name

    register()
    sys.argv[1:] = with_new_names(sys.argv[1:])
    overrides, switches = read_arguments(sys.argv[1:], command)
    sweeping = "--multirun" in switches
    if sweeping:
        overrides = with_sweep_of_experiment(overrides)
    if switches.get("--cfg") == "job":
        _show(command, jobs(overrides) if sweeping else [overrides], switches)
        return
    if switches.keys() - {"--multirun"}:  # such as --info: Hydra's own
        _by_hydra(command, overrides)
        return
    if sweeping:
        os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, overrides), ",".join(swept_keys(overrides))
        every = [compose_job(command, job, k) for k, job in enumerate(jobs(overrides))]
    else:
        check_is_no_sweep(overrides)
        every = [compose_job(command, overrides)]
    if "LOCAL_RANK" not in os.environ:  # a process that Lightning started runs a configuration that was checked
        # imports torch, after the words have been read
        from diffsweep.configuration.preflight import preflight

        for job in every:
            preflight(job.cfg)
    if sweeping and run_by_hydra(overrides):
        sys.argv[1:] = words_for_hydra(overrides)
        _by_hydra(command, overrides)
    elif sweeping:
        _in_turn(every)
    else:
        _start(every[0])
    if sweeping and command in SUMMARIES:
        _function(SUMMARIES[command])(every[0].sweep_dir)


def _show(command: str, jobs: Sequence[Sequence[str]], switches: Mapping[str, str]) -> None:
    """Print the configuration of each job, as ``--cfg job`` requests."""
    from diffsweep.configuration.show import shown

    texts = [shown(command, job, "--resolve" in switches, switches.get("--package")) for job in jobs]
    print("---\n".join(texts), end="")


def _start(job: "Composed") -> Any:
    """Run a job; Lightning reads the job's directory from Hydra when it starts the other processes of a run."""
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(job.hydra)
    return _function(TASKS[job.command])(job.cfg)


def _in_turn(every: "Sequence[Composed]") -> None:
    """Run the jobs of a sweep one after the other; one that fails does not stop the others.

    Hydra's launcher would compose each job a second time, and create its directory before the job is checked.

    Raises:
        Failed: jobs have failed, with the reason of the first; a UserError if all of them failed by mistakes.
    """
    failed: dict[str, Exception] = {}
    for job in every:
        try:
            _start(job)
        except Exception as error:
            if not _is_expected(error):
                traceback.print_exc()
            failed[job.name] = error
            print(f"{job.name} failed: {error}", file=sys.stderr)
    if failed:
        name, first = next(iter(failed.items()))
        kind = UserError if all(isinstance(error, UserError) for error in failed.values()) else Failed
        raise kind(f"{len(failed)} of {len(every)} jobs failed; {name}: {first}") from first


def _by_hydra(command: str, overrides: Sequence[str]) -> None:
    """Run the command line by Hydra, which starts the jobs of a sweep elsewhere, or shows its own configuration."""
    import hydra

    from diffsweep.configuration.compose import from_hydra
    from diffsweep.configuration.conf import CONF
    from diffsweep.configuration.explain import explained

    def task(cfg: DictConfig) -> Any:
        from diffsweep.configuration.preflight import preflight

        finished = from_hydra(command, cfg)
        preflight(finished)
        return _function(TASKS[command])(finished)

    os.environ[FULL_ERROR] = "1"  # Hydra raises its errors, and main shows them
    with explained(command, overrides):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()


def _function(name: str) -> Callable[..., Any]:
    """Import and return the function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
