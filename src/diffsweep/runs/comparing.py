"""The command ``compare.py``, and the summary that ends a sweep of trainings."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.comparison import summary, tables
from diffsweep.comparison.differences import ABSENT, SEED, protocol_of, value_follows
from diffsweep.comparison.records import PROTOCOLS, Record, as_typed, read
from diffsweep.comparison.variants import Comparison
from diffsweep.errors import UserError


def summarise(folder: Path) -> None:
    """Print the summary of a sweep, and write it into the folder of the sweep."""
    print(f"\n{summary.summarise(folder)}")


def compare(cfg: DictConfig) -> Comparison | None:
    """Run ``compare.py``: compare runs, or show how the configurations of two differ.

    Returns:
        The comparison; None where configurations are shown.

    Raises:
        UserError: a directory holds no run, no run has the metric, or the numbers may not be ranked.
    """
    if cfg.diff:
        print(difference_of(list(cfg.diff)))
        return None
    if not cfg.runs:
        raise UserError("runs is empty; give runs=DIR,DIR or runs=outputs/sweeps/NAME; python src/runs.py lists them")
    comparison = Comparison(read(cfg.runs), cfg.metric, cfg.baseline, cfg.allow)
    if comparison.refusal is not None:
        raise UserError(comparison.refusal)
    sweeps = {record.sweep for record in comparison.records}
    of_sweep = len(sweeps) == 1 and None not in sweeps and len(cfg.runs) == 1 and cfg.output is None
    folder = Path(str(sweeps.pop())) if of_sweep else Path(cfg.paths.run_dir)
    title = folder.name if of_sweep else "Comparison"
    command = summary.command_of(folder) if of_sweep else command_of(cfg)
    print(summary.write(comparison, folder, title, command))
    return comparison


def command_of(cfg: DictConfig) -> str:
    """Return the command line of a comparison, to paste into a shell: its runs, and what else was chosen.

    Args:
        cfg: of ``compare.py``.
    """
    words = [f"runs={','.join(map(str, cfg.runs))}"]
    words += [f"{key}={cfg[key]}" for key in ("metric", "baseline") if cfg[key] is not None]
    words += [f"allow=[{','.join(map(str, cfg.allow))}]"] if cfg.allow else []
    return shlex.join(["python", "src/compare.py", *words])


def difference_of(sources: Sequence[str]) -> str:
    """Return how the configurations and protocols of two runs differ, as a table.

    Args:
        sources: their directories.

    Raises:
        UserError: these are not two runs.
    """
    if len(sources) != 2:
        raise UserError(f"diff has {len(sources)} directories; give two, as in diff=[RUN,RUN]")
    records = [_single(source) for source in sources]
    a, b = records
    keys = dict.fromkeys((*a.settings, *b.settings))
    differing = [key for key in keys if a.settings.get(key, ABSENT) != b.settings.get(key, ABSENT)]
    follow = [key for key in differing if key != SEED and all(value_follows(record, key) for record in records)]
    rows = [[key, *(_shown(record, key) for record in records)] for key in differing if key not in follow]
    rows += [[f"  {key}", *(_shown(record, key) for record in records)] for key in follow]
    for metric in PROTOCOLS.values():
        protocols = [protocol_of(record, metric) for record in records]
        if all(protocols):
            names = [name for name in dict.fromkeys((*protocols[0], *protocols[1])) if name != SEED]
            values = [[name, *(as_typed(protocol.get(name, ABSENT)) for protocol in protocols)] for name in names]
            rows += [[f"measured: {name}", x, y] for name, x, y in values if x != y]
    if not rows:
        return f"{shell.shown(a.folder)} and {shell.shown(b.folder)} have the same settings"
    names = [record.folder.name for record in records]
    note = "\n\n  Indented settings follow from the others." if follow else ""
    return tables.aligned(["", *names], [[key, _short(x), _short(y)] for key, x, y in rows]) + note


def _single(source: str) -> Record:
    found = read([source])
    if len(found) != 1:
        raise UserError(f"diff={source} holds {len(found)} runs; give the directory of one")
    if not found[0].settings:
        raise UserError(
            f"{source} has no configuration that can be read{': ' * bool(found[0].error)}{found[0].error or ''}"
        )
    return found[0]


def _shown(record: Record, key: str) -> str:
    return record.shown(key) if key in record.settings else ABSENT


def _short(value: str) -> str:
    return value if len(value) <= 44 else f"{value[:41]}..."
