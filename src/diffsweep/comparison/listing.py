"""List the runs and sweeps of a folder with state, age, best metric and disk use, and choose what may be deleted."""

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffsweep import shell
from diffsweep.comparison.choices import headline
from diffsweep.comparison.records import (
    EVALUATION,
    FAILED,
    FINISHED,
    INTERRUPTED,
    MANIFEST,
    OF_A_RUN,
    PREEMPTED,
    RUNNING,
    WAITING,
    Record,
    is_run,
    read_manifest,
    read_run,
    records_in,
)
from diffsweep.comparison.verdicts import counted
from diffsweep.errors import UserError
from diffsweep.metric_table import metric
from diffsweep.progress import duration

STATES = (FINISHED, RUNNING, PREEMPTED, INTERRUPTED, FAILED, WAITING)
SUMMARY = "summary."
RECENT = 600  # seconds for which an unfinished run that has written is taken to be in progress, as on another machine
DAY = 86400


@dataclass(frozen=True)
class RunEntry:
    """A run or a sweep in a folder of outputs.

    Attributes:
        folder: its directory.
        records: of the run, or of the jobs of the sweep.
        size: bytes on the disk.
        changed: when a file in it was last written, in seconds since 1970.
        is_sweep: whether it is a sweep.
    """

    folder: Path
    records: tuple[Record, ...]
    size: int
    changed: float
    is_sweep: bool

    @property
    def states(self) -> list[str]:
        """The states of its runs, each once."""
        return list(dict.fromkeys(record.state for record in self.records))

    @property
    def state(self) -> str:
        """The state, or the counts of the states of the jobs, in words."""
        return counted(list(self.records)) if self.is_sweep else self.records[0].state

    @property
    def best(self) -> tuple[str, float] | None:
        """The name and the best value of the metric that its runs are compared by; None without any."""
        try:
            name = headline(self.records)
        except UserError:
            return None
        known = metric(name)
        return name, min((r.metrics[name] for r in self.records if name in r.metrics), key=known.shortfall)

    def in_progress(self, now: float) -> bool:
        """Return whether one of its runs is running, or is unfinished and has been written to a short time ago."""
        unfinished = any(record.state in (PREEMPTED, INTERRUPTED, WAITING) for record in self.records)
        return RUNNING in self.states or (unfinished and now - self.changed < RECENT)


def entries(outputs: Path) -> list[RunEntry]:
    """Return the runs and sweeps in a folder, at any depth, in the order of their paths.

    Evaluations in the folder of a run belong to the run.
    """
    return [entry for path in _children(outputs) for entry in _entries(path)]


def _entries(folder: Path) -> Iterable[RunEntry]:
    if read_manifest(folder) is not None or is_run(folder):
        yield entry_of(folder)
    elif folder.parent.name == "sweeps" and any(map(is_run, _children(folder))):
        yield entry_of(folder)  # made before sweeps had a manifest
    else:
        for child in _children(folder):
            yield from _entries(child)


def _children(folder: Path) -> list[Path]:
    """Return the folders in a folder, without links and hidden ones."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(path for path in found if path.name not in OF_A_RUN and not path.name.startswith("."))


def entry_of(folder: Path) -> RunEntry:
    """Return the entry of the folder of a run or of a sweep."""
    alone = is_run(folder) and not (folder / MANIFEST).is_file()
    size, changed = _size(folder)
    records = (read_run(folder),) if alone else tuple(records_in(folder))
    return RunEntry(folder, records, size, changed, not alone)


def jobs_of(entry: RunEntry) -> list[RunEntry]:
    """Return an entry for each job of a sweep that has a folder."""
    found = []
    for record in entry.records:
        if record.folder.is_dir():
            found.append(RunEntry(record.folder, (record,), *_size(record.folder), False))
    return found


def _size(folder: Path) -> tuple[int, float]:
    """Return the bytes of the files in a folder, and when the last of them was written."""
    size, changed = 0, folder.stat().st_mtime
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(SUMMARY):  # of a sweep, which is written whenever somebody looks
                continue
            try:
                state = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # written anew meanwhile
                continue
            size, changed = size + state.st_size, max(changed, state.st_mtime)
    return size, changed


def rows(found: Sequence[RunEntry], now: float) -> list[list[str]]:
    """Return the rows of the list: path, state, age, best metric and disk use."""
    return [
        [shell.shown(entry.folder), entry.state, age(entry, now), _best(entry), disk(entry.size)] for entry in found
    ]


def age(entry: RunEntry, now: float) -> str:
    """Return in words for how long an entry has not changed."""
    seconds = max(0.0, now - entry.changed)
    return f"{seconds / DAY:.0f} days" if seconds >= 2 * DAY else duration(seconds)


def _best(entry: RunEntry) -> str:
    if entry.best is None:
        return ""
    name, value = entry.best
    return f"{metric(name).label} {metric(name).shown(value)}"


def disk(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@dataclass(frozen=True)
class Plan:
    """What is deleted, and what was named but is kept, each with the reason."""

    deleted: list[RunEntry]
    kept: list[tuple[RunEntry, str]]


def plan(outputs: Path, targets: Sequence[str], older: float, now: float) -> Plan:
    """Return what a deletion would delete and what it would keep.

    Args:
        outputs: the folder of all runs; nothing outside it is deleted.
        targets: states of runs and of jobs, and directories or patterns of them.
        older: days; what has changed since is kept.
        now: the time, in seconds since 1970.

    Raises:
        UserError: a target is neither a state nor a run or a sweep inside the outputs.
    """
    every = entries(outputs)
    chosen: dict[Path, RunEntry] = {}
    for target in targets:
        for entry in _of_state(every, target) if target in STATES else _named(outputs, target):
            chosen[entry.folder.resolve()] = entry
    deleted: list[RunEntry] = []
    kept: list[tuple[RunEntry, str]] = []
    for path, entry in chosen.items():
        if any(other in path.parents for other in chosen):
            continue  # inside another one
        if (reason := _why_kept(entry, every, chosen, older, now)) is not None:
            kept.append((entry, reason))
        else:
            deleted.append(entry)
    return Plan(deleted, kept)


def _why_kept(
    entry: RunEntry, every: Sequence[RunEntry], chosen: Iterable[Path], older: float, now: float
) -> str | None:
    """Return why an entry is kept though it was named; None if it may be deleted."""
    if entry.in_progress(now):
        return "in progress"
    if now - entry.changed < older * DAY:
        return f"changed {age(entry, now)} ago"
    folder, gone = entry.folder.resolve(), set(chosen)
    for other in every:
        if other.folder.resolve() in gone or folder in other.folder.resolve().parents:
            continue
        if any(_refers(record, folder) for record in other.records if record.folder.resolve() not in gone):
            return f"{shell.shown(other.folder)} refers to it"
    return None


def _refers(record: Record, folder: Path) -> bool:
    """Return whether a setting of a run is the directory of another run, or lies in it."""
    return record.folder.resolve() != folder and any(
        key.rpartition(".")[2] == "run"
        and isinstance(value, str)
        and folder in (path := Path(value).resolve(), *path.parents)
        for key, value in record.settings.items()
    )


def _of_state(every: Sequence[RunEntry], state: str) -> list[RunEntry]:
    """Return the runs, and the jobs of sweeps, of a state; a sweep all of whose jobs have it is one."""
    found = []
    for entry in every:
        if entry.states == [state]:
            found.append(entry)
        elif entry.is_sweep and state in entry.states:
            found += [job for job in jobs_of(entry) if job.state == state]
    return found


def _named(outputs: Path, target: str) -> list[RunEntry]:
    """Return the entries of a directory or a pattern, which must lie inside the outputs.

    Raises:
        UserError: one does not, is a link, or is no run and no sweep.
    """
    pattern = any(mark in target for mark in "*?[")
    anchor = Path("/") if target.startswith("/") else Path()
    paths = sorted(anchor.glob(target.lstrip("/"))) if pattern else [Path(target)]
    if not paths or not (pattern or paths[0].exists()):
        states = ", ".join(STATES)
        raise UserError(f"prune={target}: no such directory, and no state; states are {states}")
    found = []
    for path in paths:
        inside = outputs.resolve() in path.resolve().parents
        if path.is_symlink() or not inside:
            raise UserError(f"prune={path}: it is not inside {shell.shown(outputs)}; only runs in it are deleted")
        if not path.is_dir() or not (is_run(path) or read_manifest(path) or any(map(is_run, _children(path)))):
            if pattern:
                continue
            raise UserError(f"prune={path}: it is no run and no sweep; give one, or a pattern of them")
        if (path / EVALUATION).is_file() or is_run(path) or read_manifest(path) or path.parent.name == "sweeps":
            found.append(entry_of(path))
        else:
            raise UserError(f"prune={path}: it holds several runs; name them, as in prune='{path}/*'")
    return found


def delete(entry: RunEntry) -> None:
    """Delete the folder of an entry that a plan names, unless a run in it has begun meanwhile.

    Raises:
        UserError: a run in it is in progress.
    """
    if entry_of(entry.folder).in_progress(time.time()):
        raise UserError(f"{shell.shown(entry.folder)} is in progress, and stays")
    shutil.rmtree(entry.folder)
