"""The command ``runs.py``: a list of runs and sweeps, and the deletion of those of no use."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.comparison.listing import STATES, RunEntry, delete, disk, entries, jobs_of, plan, rows
from diffsweep.comparison.tables import aligned
from diffsweep.errors import UserError
from diffsweep.metric_table import metric

COLUMNS = ("", "state", "last change", "best", "disk")


def _quality(entry: RunEntry) -> float:
    return math.inf if entry.best is None else metric(entry.best[0]).shortfall(entry.best[1])


ORDERS: dict[str, Callable[[RunEntry], float | str]] = {
    "age": lambda entry: -entry.changed,
    "disk": lambda entry: -entry.size,
    "name": lambda entry: str(entry.folder),
    "metric": _quality,
}


def runs(cfg: DictConfig) -> None:
    """Run ``runs.py``: print the list, or what ``prune`` would delete; delete it where it is confirmed.

    Raises:
        UserError: an option is wrong, or nothing that is named may be deleted.
    """
    outputs, now = Path(cfg.paths.output_dir), time.time()
    if cfg.sort not in ORDERS:
        raise UserError(f"sort={cfg.sort}: runs are sorted by {', '.join(ORDERS)}")
    if unknown := [state for state in cfg.state if state not in STATES]:
        raise UserError(f"state={unknown[0]}: the states are {', '.join(STATES)}")
    if not outputs.is_dir():
        raise UserError(f"{shell.shown(outputs)}: no such folder; paths.output_dir= names the folder of all runs")
    if cfg.prune:
        _prune(cfg, outputs, now)
        return
    found = entries(outputs)
    if cfg.jobs:
        found = [each for entry in found for each in ([entry, *jobs_of(entry)] if entry.is_sweep else [entry])]
    shown = [entry for entry in found if not cfg.state or set(entry.states) & set(cfg.state)]
    if not shown:
        print(f"no runs in {shell.shown(outputs)}" + (f" are {' or '.join(cfg.state)}" if cfg.state else " yet"))
        return
    print(aligned(COLUMNS, rows(sorted(shown, key=ORDERS[cfg.sort]), now)))  # type: ignore[arg-type]
    total = sum(entry.size for entry in entries(outputs)) if cfg.jobs else sum(entry.size for entry in shown)
    print(f"\n  {len(shown)} in {shell.shown(outputs)}, {disk(total)}")


def _prune(cfg: DictConfig, outputs: Path, now: float) -> None:
    """Print what is deleted and what is kept, and delete where it is confirmed."""
    planned = plan(outputs, list(cfg.prune), cfg.older, now)
    for entry, reason in planned.kept:
        print(f"  kept: {shell.shown(entry.folder)} ({reason})")
    if not planned.deleted:
        print("nothing to delete")
        return
    print(aligned(COLUMNS, rows(planned.deleted, now)))
    total = disk(sum(entry.size for entry in planned.deleted))
    if not cfg.confirm:
        print(
            f"\n  {len(planned.deleted)} would be deleted, {total}; nothing was. Repeat it with confirm=true to delete"
        )
        return
    for entry in planned.deleted:
        delete(entry)
    print(f"\n  {len(planned.deleted)} deleted, {total}")
