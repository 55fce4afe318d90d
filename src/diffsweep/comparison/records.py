"""Read run directories and sweep directories into records, from their files alone.

A run's directory has ``config.yaml``, ``metrics.json`` and ``metrics.csv``; that of an evaluation has
``evaluation.yaml`` and ``metrics.json``; that of a sweep has a directory for each job and the manifest ``sweep.json``.
Nothing is composed or built, so that hundreds of directories are read in seconds.
"""

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffsweep import shell
from diffsweep.comparison.history import last_values, read_history
from diffsweep.configuration.conf import leaves, read_yaml, settings
from diffsweep.configuration.conf import options as options_of
from diffsweep.errors import UserError
from diffsweep.files import in_use

CONFIG, EVALUATION, METRICS, HISTORY, MANIFEST = (
    "config.yaml",
    "evaluation.yaml",
    "metrics.json",
    "metrics.csv",
    "sweep.json",
)
STOPPED = "stopped.json"  # the state and the step of a run that a signal has stopped
WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
INTERRUPTED, PREEMPTED = "interrupted", "preempted"  # by Ctrl-C or a kill, and by a scheduler
LOCK = ".lock"  # held while a run is trained
LOCKS = ".locks"  # the folder of a sweep with a lock for each job, held while the job runs
# Keys of metrics.json, each with what the names of the metrics begin with that were measured by it.
PROTOCOLS = {"protocol": "", "likelihood_protocol": "bits_per_dim", "straightness_protocol": "straightness"}
PROTOCOLS["cache_protocol"] = "cache_error"
# Top keys of a configuration that do not change what a run computes, or that follow from others.
NO_SETTINGS = (
    *("paths", "logger", "choices", "versions", "git", "sweep", "resume_from", "trust", "hydra", "space", "condition"),
    *("verify", "output", "callbacks", "halve_batch", "plan"),
)
DEEPEST = 4  # folders below the given one in which runs are looked for
OF_A_RUN = ("checkpoints", "samples", "wandb", "evaluate", "sample")  # folders in a run that hold no runs to compare
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Record:
    """What the files of a run, or of an evaluation of a run, state.

    Attributes:
        name: of its directory; of a job, as the manifest of its sweep has it.
        folder: its directory.
        settings: the option of each group by the group's name, and the value of each key by its flat name as it is
            typed (``sampler.steps``); references to other keys (``${space.clip}``) are left as they are.
        typed: the overrides that make a job of a sweep differ from the others, by key; empty outside a sweep.
        metrics: the numbers of ``metrics.json``, the last validation losses (``val/loss``), ``hours`` and
            ``parameters``, as far as they are known.
        protocols: how samples (``protocol``), the likelihood and the straightness were measured: see ``PROTOCOLS``.
        state: ``finished``, ``running``, ``preempted``, ``interrupted``, ``failed`` or ``waiting``.
        error: why a job failed, or which file cannot be read; None otherwise.
        sweep: the directory of the sweep that it is a job of; None for a run alone.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    state: str = FINISHED
    error: str | None = None
    sweep: Path | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the run; None if it is not recorded."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @functools.cached_property
    def history(self) -> dict[str, list[tuple[int, float]]]:
        """The curves of ``metrics.csv``: points (step, value) by metric, in the order of steps."""
        return read_history(self.folder / HISTORY)

    def shown(self, key: str) -> str:
        """Return the value of a setting as it would be typed; simple references to other settings are followed."""
        value = self.settings.get(key)
        for _ in range(4):
            match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if match is None or match[1] not in self.settings:
                break
            value = self.settings[match[1]]
        return as_typed(value)


def as_typed(value: Any) -> str:
    """Return a value of a configuration as it would be typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def read(sources: Iterable[str | Path]) -> list[Record]:
    """Return the records of runs, evaluations, sweeps and folders that hold them, each directory once.

    Args:
        sources: the directories; patterns such as ``outputs/sweeps/*`` are expanded.

    Raises:
        UserError: a directory does not exist, or holds no run.
    """
    found: dict[Path, Record] = {}
    for source in sources:
        for folder in _expanded(source):
            records = list(records_in(folder))
            if not records:
                raise UserError(_why_nothing(folder))
            found.update({record.folder.resolve(): record for record in records})
    return list(found.values())


def records_in(folder: Path, depth: int = 0) -> Iterator[Record]:
    """Yield the record of a directory if it is a run's, else those of the jobs or runs inside, jobs in their order."""
    manifest = read_manifest(folder)
    if manifest is not None:
        yield from _jobs(folder, manifest)
    elif is_run(folder):
        yield read_run(folder)
    elif depth < DEEPEST:
        children = [
            path for path in folder.iterdir() if path.is_dir() and path.name not in OF_A_RUN and path.name[0] != "."
        ]
        for child in sorted(children, key=_by_number):
            yield from records_in(child, depth + 1)


def is_run(folder: Path) -> bool:
    """Return whether a directory is that of a run or of an evaluation."""
    return any((folder / name).is_file() for name in (CONFIG, EVALUATION, METRICS))


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest of a sweep; None if the directory has none that can be read."""
    content = _json(folder / MANIFEST)
    return content if isinstance(content, dict) and isinstance(content.get("jobs"), list) else None


def _jobs(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the records of the jobs of a sweep; of a job that has left no directory what the manifest states."""
    for job in manifest["jobs"]:
        yield read_run(folder / str(job["name"]), job, folder)


def read_run(folder: Path, job: Mapping[str, Any] | None = None, sweep: Path | None = None) -> Record:
    """Return the record of a run's directory; what is missing or cannot be read is left out.

    Args:
        folder: the directory.
        job: what the manifest of its sweep states of it; None without a manifest.
        sweep: the directory of its sweep.
    """
    config, unreadable = _config(folder)
    content = _json(folder / METRICS)
    if content is None and (folder / METRICS).exists():
        unreadable = unreadable or f"{METRICS} is half-written"
    content = content if isinstance(content, dict) else {}
    protocols = {name: content[name] for name in PROTOCOLS if isinstance(content.get(name), dict)}
    flat = flat_settings(config) if config else _of_protocol(protocols.get("protocol", {}))
    metrics = {name: float(value) for name, value in content.get("metrics", {}).items() if _is_number(value)}
    history_end = last_values(folder / HISTORY)
    metrics |= {name: value for name, value in history_end.items() if name.startswith("val/")}
    cost = content.get("cost", {})
    seconds = (job or {}).get("seconds") or cost.get("seconds")
    metrics |= {"hours": seconds / 3600} if seconds else {}
    metrics |= {"parameters": float(cost["parameters"])} if cost.get("parameters") else {}
    known = job or {}
    if sweep is None and config.get("sweep") not in (None, "stages"):
        sweep = folder.parent
    return Record(
        name=str(known.get("name", folder.name)),
        folder=folder,
        settings=flat,
        typed=dict(override.split("=", 1) for override in known.get("overrides", []) if "=" in override),
        metrics=metrics,
        protocols=protocols,
        state=_state(folder, config, bool(content), history_end, known.get("state")),
        error=known.get("error") or unreadable,
        sweep=sweep,
    )


def _state(
    folder: Path, config: Mapping[str, Any], measured: bool, ended: Mapping[str, float], recorded: str | None
) -> str:
    """Return the state of a run from its lock, its files, and what a manifest has recorded."""
    if in_use(folder / LOCK) or in_use(folder.parent / LOCKS / f"{folder.name}.lock"):
        return RUNNING
    last = config.get("trainer", {}).get("max_steps", math.inf) if isinstance(config.get("trainer"), dict) else math.inf
    if measured or (isinstance(last, int) and ended.get("step", -1) >= last and any("val/" in name for name in ended)):
        return FINISHED
    if recorded not in (None, RUNNING):
        return recorded
    return stopped_state(folder)


def stopped_state(folder: Path) -> str:
    """Return ``preempted`` or ``interrupted``, the state of an unfinished run that no process trains now."""
    stopped = _json(folder / STOPPED)
    return PREEMPTED if isinstance(stopped, dict) and stopped.get("state") == PREEMPTED else INTERRUPTED


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a saved configuration: options by group, and values by their flat keys."""
    choices = config.get("choices", {})
    found: dict[str, Any] = dict(choices) if isinstance(choices, dict) else {}
    found.pop("paths", None)
    found.pop("logger", None)
    found.pop("callbacks", None)
    for key, value in leaves({name: node for name, node in config.items() if name not in NO_SETTINGS}):
        is_deep = isinstance(value, list) and any(isinstance(item, dict) for item in value)
        found[key] = json.dumps(value) if is_deep else value
    run = config.get("paths", {}).get("run_dir") if config.get("_evaluated") else None
    return {**found, "run": shell.shown(run)} if run else found


def _of_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a protocol states, for evaluations that have no configuration of their own."""
    keys = sampler_keys()
    found = {f"sampler.{key}": value for key, value in protocol.items() if key in keys}
    found |= {key: protocol[key] for key in ("sampler", "seed") if key in protocol}
    return found | dict(leaves({"guidance": protocol.get("guidance", {})}))


@functools.cache
def sampler_keys() -> frozenset[str]:
    """Return the keys that the options of the group ``sampler`` have; a protocol lists them without the group."""
    return frozenset(key for option in options_of("sampler") for key in settings("sampler", option)) - {"_target_"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(path: Path) -> Any:
    """Return the content of a JSON file; None if it does not exist or is half-written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _config(folder: Path) -> tuple[Mapping[str, Any], str | None]:
    """Return the saved configuration of a run or an evaluation, and why it cannot be read, if so."""
    evaluated = (folder / EVALUATION).is_file()
    file = folder / (EVALUATION if evaluated else CONFIG)
    if not file.is_file():
        return {}, None
    try:
        content = read_yaml(file)
    except ValueError:
        content = {}
    if "choices" not in content:
        return {}, f"{file.name} is half-written, or was not written by train.py"
    return {**content, "_evaluated": True} if evaluated else content, None


def _expanded(source: str | Path) -> Sequence[Path]:
    """Return the directories that a path or a pattern names."""
    text = str(source)
    if any(mark in text for mark in "*?["):
        anchor = Path("/") if text.startswith("/") else Path()
        found = [path for path in sorted(anchor.glob(text.lstrip("/"))) if path.is_dir()]
        if not found:
            raise UserError(f"{text}: no directory matches")
        return found
    if not Path(text).is_dir():
        raise UserError(f"{text}: no such directory")
    return [Path(text)]


def _why_nothing(folder: Path) -> str:
    """Return the line of an error for a directory without runs."""
    if not any(folder.iterdir()):
        return f"{shell.shown(folder)} is empty; give the directory of a run or of a sweep, such as outputs/sweeps/NAME"
    return (
        f"{shell.shown(folder)} holds no run: nothing in it has a {CONFIG} or {METRICS}; python src/runs.py lists runs"
    )


def _by_number(path: Path) -> tuple[float, str]:
    """Return a key that sorts jobs by their numbers and other folders after them by name."""
    number = path.name.partition("_")[0]
    return (int(number) if number.isdigit() and len(number) < 5 else math.inf), path.name
