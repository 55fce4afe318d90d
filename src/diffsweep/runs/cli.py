"""The command line: what all commands share. Imports Hydra only; torch is imported when a command really runs."""

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import Any

from omegaconf import DictConfig

from diffsweep.errors import Failed, UserError
from diffsweep.files import ContentError

TASKS = {
    "train": "diffsweep.runs.training:train",
    "evaluate": "diffsweep.runs.commands:evaluate",
    "sample": "diffsweep.runs.commands:sample",
    "benchmark": "diffsweep.runs.benchmarking:benchmark",
    "verify": "diffsweep.runs.verification:verify",
}
SUMMARIES = {  # of a sweep's folder, when all its jobs have run
    "evaluate": "diffsweep.runs.evaluation:summarise",
    "verify": "diffsweep.runs.verification:summarise",
}
SWITCHES = ("-m", "--multirun")
FULL_ERROR = "HYDRA_FULL_ERROR"


def main(command: str) -> None:
    """Run a command with the arguments of this process. A user's mistake ends it with one line and exit code 2."""
    # What is imported and composed lives on: to look through it for garbage takes a second or two of each start.
    gc.set_threshold(50_000)
    wants_trace = os.environ.get(FULL_ERROR) == "1"
    sys.argv[1:] = reordered(sys.argv[1:])
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(command))
        return
    try:
        _run(command)
    except Exception as error:
        if wants_trace or not _is_users(error):
            raise
        sys.exit(_tell(error))


def _is_users(error: BaseException) -> bool:
    """Whether the error is told in one line: a mistake, a wrong file, a loss or a walk that diverged, a proof that failed."""
    return isinstance(error, UserError | ContentError | FloatingPointError | Failed)


def _tell(error: Exception) -> int:
    """Print an error's line; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def reordered(arguments: Sequence[str]) -> list[str]:
    """``-m`` first: argparse refuses it after overrides."""
    return sorted(arguments, key=lambda argument: argument not in SWITCHES)


def help_text(command: str) -> str:
    """What ``--help`` prints: what the command does, every group with its options, examples. (Hydra's own takes seconds.)"""
    from omegaconf import OmegaConf

    from diffsweep.configuration.conf import CONF, groups, options

    told = OmegaConf.load(CONF / f"{command}.yaml").hydra.help
    composed = [*OmegaConf.load(CONF / "base.yaml").defaults, *OmegaConf.load(CONF / f"{command}.yaml").defaults]
    names = {str(key) for entry in composed if not isinstance(entry, str) for key in entry}
    listed = "\n".join(f"  {group:<14} {', '.join(options(group))}" for group in groups() if group in names)
    return f"{told.header}\n\nGroups and their options:\n{listed}\n\nExamples:\n{indent(told.footer, '  ')}"


def _run(command: str) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from diffsweep.configuration.compose import explained, from_hydra, register, sweep_folder, swept_keys
    from diffsweep.configuration.conf import CONF
    from diffsweep.configuration.resolvers import SWEEP, SWEPT, sweep_name

    register()
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    sweeping = any(argument in SWITCHES for argument in sys.argv[1:])
    if sweeping:
        os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, overrides), ",".join(swept_keys(overrides))
    runs = all(argument in SWITCHES for argument in sys.argv[1:] if argument.startswith("-"))  # not --help and the like
    if runs and "LOCAL_RANK" not in os.environ:  # a rank that Lightning started runs what has been checked
        _preflight(command, overrides, sweeping)

    wants_trace = os.environ.get(FULL_ERROR) == "1"

    def task(cfg: DictConfig) -> Any:
        try:
            return _function(TASKS[command])(from_hydra(command, cfg))
        except Exception as error:
            if _is_users(error):
                with contextlib.suppress(OSError):  # a directory that nothing was written to is not left behind
                    os.removedirs(HydraConfig.get().runtime.output_dir)
            if sweeping or wants_trace or not _is_users(error):
                raise  # the sweep's other jobs go on
            sys.exit(_tell(error))  # past Hydra, which would put a line of its own before it

    os.environ[FULL_ERROR] = "1"  # Hydra hands its errors on, and main shows them
    with explained(command, overrides):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()
    if sweeping and runs and command in SUMMARIES:
        _function(SUMMARIES[command])(sweep_folder(command, overrides))


def _function(name: str) -> Callable[..., Any]:
    """What ``module:function`` names, imported."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _preflight(command: str, overrides: Sequence[str], sweeping: bool) -> None:
    """Check every job before the first one starts and before a directory is made."""
    from diffsweep.configuration.compose import compose, jobs

    every = jobs(overrides) if sweeping else [overrides]
    configs = [compose(command, job) for job in every]

    from diffsweep.configuration.preflight import preflight  # imports torch: not before the words are known to be right

    for cfg in configs:
        preflight(cfg)
