"""Run the commands from the command line. It imports Hydra alone; torch is imported when a command really runs."""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from diffsweep.errors import UserError
from diffsweep.processes import starts_first
from diffsweep.runs import functions
from diffsweep.runs.manifest import is_expected
from diffsweep.runs.supervising import is_needed, supervise, worker
from diffsweep.shell import one_line

FULL_ERROR = "HYDRA_FULL_ERROR"
HELP = {"-h", "--help"}
SWITCHES = ("-m", "--multirun")
YOUNG = 50_000  # objects among which garbage is looked for first; Python has 700


def main(command: str) -> None:
    """Run a command, such as ``train``, with the arguments of this process, ``sys.argv``.

    An expected error ends the process with one line: with exit code 2 for a user's mistake, with 1 for an unreadable
    file, a loss that is NaN or a failed check. Other errors, and all with ``HYDRA_FULL_ERROR=1``, are raised with their
    stack trace. A sweep is run by a process that this one supervises (:mod:`diffsweep.runs.supervising`).

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
    """
    if is_needed(sys.argv[1:]):
        sys.exit(supervise([sys.executable, *sys.orig_argv[1:]]))
    worker.begin()
    # Imports and configurations live on, and collecting garbage among them often costs each start a second or two.
    gc.set_threshold(YOUNG)
    wants_trace = os.environ.get(FULL_ERROR) == "1"
    sys.argv[1:] = reordered(sys.argv[1:])
    try:
        if HELP & set(sys.argv[1:]):
            _print_help(command)
        else:
            _run(command)
    except BrokenPipeError:  # the reader of the output has ended, as in `runs.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        sys.exit(141)  # that of a process which SIGPIPE has ended
    except Exception as error:
        if wants_trace or not is_expected(error):
            raise
        sys.exit(_print_error(error))


def _print_error(error: Exception) -> int:
    """Print the line of an error and return the exit code."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror is not None:  # else its own text names the file and the reason
        text = f"{error.filename}: {error.strerror}; check the path, its permission and the space on its disk"
    print(f"error: {one_line(text)}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def reordered(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with ``-m`` (``--multirun``) first, since argparse refuses it after overrides."""
    return sorted(arguments, key=lambda argument: argument not in SWITCHES)


def _print_help(command: str) -> None:
    """Print the help of a command, or of the groups, options and keys that its arguments name.

    Hydra's own help takes seconds.
    """
    from diffsweep.configuration.help import help_text
    from diffsweep.configuration.schema import FORMS

    topics = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    key, form = FORMS.get(command, ("", ""))
    print(help_text(form, []) if topics == [key] else help_text(command, topics))


def _run(command: str) -> None:
    from diffsweep.configuration.arguments import read_arguments
    from diffsweep.configuration.compose import compose_job, form_of, register
    from diffsweep.configuration.jobs import (
        OPTUNA,
        check_is_no_sweep,
        is_planned,
        jobs,
        sweeper_of,
        with_sweep_of_experiment,
    )
    from diffsweep.configuration.moved import with_new_names
    from diffsweep.runs.job_processes import refuse_own_folders

    sys.argv[1:] = with_new_names(sys.argv[1:])
    command = form_of(command, sys.argv[1:])
    register(command)
    overrides, switches = read_arguments(sys.argv[1:], command)
    sweeping = "--multirun" in switches
    if sweeping:
        overrides = with_sweep_of_experiment(overrides)
    if switches.get("--cfg") == "job":
        _show(command, jobs(overrides) if sweeping else [overrides], switches)
    elif switches.keys() - {"--multirun"} or (sweeping and sweeper_of(overrides) not in (None, OPTUNA)):  # --info
        _by_hydra(command, overrides)
    elif sweeping and is_planned(overrides):
        from diffsweep.runs.planning.command import plan_sweep

        plan_sweep(command, overrides)
    elif sweeping and sweeper_of(overrides) == OPTUNA:
        from diffsweep.runs.search import run_search

        run_search(command, overrides)
    elif sweeping:
        from diffsweep.runs.sweeps import run_sweep

        run_sweep(command, overrides)
    else:
        check_is_no_sweep(overrides)
        job = compose_job(command, overrides)
        refuse_own_folders(job)
        # Of several processes the first one checks; and some commands build nothing.
        checks = starts_first() and "model" in job.cfg
        import_for(job.command, checks)  # torch too, after the words have been read
        if checks:
            from diffsweep.configuration.preflight import preflight

            preflight(job.cfg)
        functions.start(job)


def import_for(command: str, checks: bool) -> None:
    """Import the modules that run a job of a command, without looking for garbage among what lives on.

    Args:
        command: such as ``train``.
        checks: whether the modules that check its configuration are imported too.
    """
    gc.disable()
    try:
        if checks:
            import diffsweep.configuration.preflight  # noqa: F401
        functions.task_of(command)
    finally:
        gc.freeze()
        gc.enable()


def _show(command: str, jobs: Sequence[Sequence[str]], switches: Mapping[str, str]) -> None:
    """Print the configuration of each job, as ``--cfg job`` requests."""
    from diffsweep.configuration.show import shown

    texts = [shown(command, job, "--resolve" in switches, switches.get("--package")) for job in jobs]
    print("---\n".join(texts), end="")


def _by_hydra(command: str, overrides: Sequence[str]) -> None:
    """Run the command line by Hydra: one of its sweepers searches, or it shows its own configuration."""
    import hydra

    from diffsweep.configuration.conf import CONF
    from diffsweep.configuration.explain import explained
    from diffsweep.configuration.jobs import swept_keys
    from diffsweep.configuration.resolvers import SWEEP, SWEPT, sweep_name

    def task(cfg: DictConfig) -> Any:
        return functions.finish_and_start(command, cfg)

    os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, overrides), ",".join(swept_keys(overrides))
    os.environ[FULL_ERROR] = "1"  # Hydra raises its errors, and main shows them
    with explained(command, overrides):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()
