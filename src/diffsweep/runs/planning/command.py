"""The option ``plan=true`` of ``train.py``: print what a run, or a sweep, will cost, and start nothing."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.configuration.compose import Composed, compose_job
from diffsweep.configuration.jobs import OPTUNA, PLAN, jobs, sweeper_of, swept_keys
from diffsweep.configuration.resolvers import LAUNCHER, SWEEP, SWEPT, sweep_name
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.runs.planning.planner import Planner
from diffsweep.runs.planning.plans import RunPlan, disk_of_all, seconds_of_all, stages_of_all
from diffsweep.runs.planning.report import shown, shown_sweep
from diffsweep.runs.sweeps import checked


def plan(cfg: DictConfig) -> RunPlan:
    """Return the plan of a training, from a few steps of it; nothing is left on the disk.

    Args:
        cfg: a checked configuration of ``train``.

    Raises:
        UserError: the machine lacks what the training requires, or a trained model that it requires is missing.
    """
    with Planner(report=_report) as planner:
        return planner.plan(cfg)


def plan_job(job: Composed) -> float:
    """Print the plan of a run and the command that starts it, and return the predicted hours.

    With ``plan=FILE.json`` the numbers are written into the file too.

    Args:
        job: the run.
    """
    file = _file(job.cfg.plan)
    made = plan(job.cfg)
    print(shown(made))
    _write(file, made.numbers())
    _print_start([*_own(job.words), *_that_fits(made)], False)
    return made.seconds / 3600


def plan_sweep(command: str, overrides: Sequence[str]) -> float:
    """Print the plans of the jobs of a sweep, with the whole, and return the predicted hours.

    Args:
        command: ``train``.
        overrides: of the command line, with ``plan=true``.

    Raises:
        UserError: a job is refused, or a search would choose the jobs.
    """
    if sweeper_of(overrides) == OPTUNA:
        raise UserError(
            "plan=true counts the jobs of a sweep, and a search chooses its jobs as it goes: plan one of them alone, "
            "without -m"
        )
    words = [override for override in overrides if not override.startswith(LAUNCHER)]
    os.environ[SWEEP], os.environ[SWEPT] = sweep_name(command, _own(overrides)), ",".join(swept_keys(words))
    every = {number: compose_job(command, own, number) for number, own in enumerate(jobs(words))}
    file, left_out = _file(every[0].cfg.plan), checked(every)
    chosen = [job for number, job in every.items() if number not in left_out]
    with Planner(report=_report) as planner:
        plans = [planner.plan(job.cfg) for job in chosen]
    names = [job.name for job in chosen]
    print(f"plan of {len(chosen)} jobs\n{shown_sweep(names, plans)}")
    for reason in left_out.values():
        print(f"  left out: {reason}")
    total = seconds_of_all(plans)
    numbers = {
        "jobs": {name: each.numbers() for name, each in zip(names, plans, strict=True)},
        "stages": {name: each.numbers() for name, each in stages_of_all(plans).items()},
        "hours": total / 3600,
        "disk": disk_of_all(plans),
    }
    _write(file, numbers)
    _print_start(_own(overrides), True)
    return total / 3600


def _file(value: bool | str) -> Path | None:
    """Return the file that the numbers are to be written into; None for none."""
    return Path(value) if isinstance(value, str) else None


def _write(file: Path | None, numbers: dict[str, Any]) -> None:
    if file is not None:
        write_text(file, json.dumps(numbers, indent=1) + "\n")
        print(f"  numbers: {shell.shown(file)}")


def _own(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0] != PLAN]


def _that_fits(made: RunPlan) -> list[str]:
    return made.changes[0].words.split() if made.changes else []


def _print_start(words: Sequence[str], sweeping: bool) -> None:
    line = shell.sweep("train", words)
    print(f"\n  start {line if sweeping else line.replace(' -m', '', 1)}".rstrip())


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
