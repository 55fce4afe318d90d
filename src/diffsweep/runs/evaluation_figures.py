"""The end of a sweep of evaluations: a table, and figures of what the jobs measured over the keys that vary."""

import importlib.util
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsweep import shell
from diffsweep.comparison import summary
from diffsweep.comparison.endings import endings
from diffsweep.comparison.records import read, read_manifest
from diffsweep.comparison.tables import matrix
from diffsweep.configuration.resolvers import slug
from diffsweep.files import write_text
from diffsweep.metric_table import DISTANCES, METRICS, metric
from diffsweep.plots import plot_by_evaluations, plot_tradeoff
from diffsweep.runs import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Mapping[str, float]
Jobs = Mapping[str, Any]  # the metrics.json of each job of a sweep, by its name


def summarise(folder: Path) -> None:
    """Summarise a sweep of ``evaluate.py``, a set of jobs with varied settings, by a table and figures in its folder.

    The table ``results.csv`` has a row for each finished job, and is printed. With matplotlib the functions in FIGURES
    draw figures over the keys that the sweep varies.

    Args:
        folder: the folder of the sweep, with a subfolder for each job.

    Raises:
        UserError: no job has finished.
    """
    found = report.jobs_of(folder, "metrics.json")
    names = [name for name in METRICS if any(name in content["metrics"] for content in found.values())]
    cells = {job: [f"{content['metrics'].get(name, math.nan):.4g}" for name in names] for job, content in found.items()}
    lines = [",".join(row) for row in (["job", *names], *([job, *values] for job, values in cells.items()))]
    write_text(folder / "results.csv", "\n".join(lines) + "\n")
    print(f"\n{matrix(names, cells)}\n\n  {shell.shown(folder / 'results.csv')}")
    if importlib.util.find_spec("matplotlib") is not None:
        short = with_short_runs(found, folder)
        for draw_figure in FIGURES:
            if (named := draw_figure(short)) is not None:
                name, figure = named
                figure.savefig(folder / name, dpi=120)
                print(f"  {shell.shown(folder / name)}")
    print(f"\n{summary.summarise(folder)}")


def with_short_runs(found: Jobs, folder: Path) -> Jobs:
    """Return the jobs of a sweep by names in which a run is called by its model and the end of its path.

    The model is left out where it is the same in all. Without a manifest, or a key ``run`` that varies, the names stay.

    Args:
        found: the contents of each job's ``metrics.json``, by the job's name.
        folder: the folder of the sweep.
    """
    if read_manifest(folder) is None:
        return found
    records = {record.name.partition("_")[2]: record for record in read([folder])}
    runs = {name: record.typed["run"] for name, record in records.items() if name in found and "run" in record.typed}
    models = {name: str(records[name].settings.get("model", "")) for name in runs}
    several, short = len(set(models.values())) > 1, endings(runs.values())

    def renamed(name: str) -> str:
        if name not in runs:
            return name
        words = (models[name] if several else "", short[runs[name]])
        return name.replace(slug(f"run={runs[name]}"), " ".join(filter(None, words)), 1)

    return {renamed(name): content for name, content in found.items()}


def distance_in(found: Jobs) -> str:
    """Return the name of the distance by which jobs of a sweep are compared: ``fid``, ``fvd`` or ``clip_fd``.

    It is the first of these (DISTANCES) in any job's ``metrics.json``, which ``found`` has by the job's name, else
    ``fid``.
    """
    return next((name for name in DISTANCES if any(name in content["metrics"] for content in found.values())), "fid")


def distance_by_evaluations(found: Jobs) -> "tuple[str, Figure] | None":
    """Return a file name and a figure of FID (or another distance) by network evaluations; None if these do not vary.

    Jobs that differ in ``sampler.steps`` alone form a curve.

    Args:
        found: the contents of each job's ``metrics.json``, by the job's name.
    """
    distance = distance_in(found)
    curves = curves_over("sampler.steps", found, lambda content: content["metrics"].get("network_evaluations"))
    points = {name: [(x, metrics[distance]) for x, metrics in curve] for name, curve in curves.items()}
    return (f"{distance}.png", plot_by_evaluations(points, metric(distance).label)) if points else None


def tradeoff(found: Jobs) -> "tuple[str, Figure] | None":
    """Return a file name and a figure of fidelity against diversity over the strength of guidance, if it varies.

    The strength is a numeric key of ``guidance``; if several vary, the one with the most values. Jobs that differ in it
    alone form a curve. The result is None if none varies.

    Args:
        found: the contents of each job's ``metrics.json``, by the job's name.
    """
    score = DISTANCES[distance_in(found)]

    def numbers(content: Any) -> dict[str, float]:
        measured = {score, "precision", "recall"} <= content["metrics"].keys()
        guidance = content["protocol"].get("guidance", {}) if measured else {}
        return {key: value for key, value in guidance.items() if type(value) in (int, float)}

    values: dict[str, set[float]] = {}
    for content in found.values():
        for key, value in numbers(content).items():
            values.setdefault(key, set()).add(value)
    key = max(values, key=lambda key: len(values[key]), default="")
    curves = curves_over(f"guidance.{key}", found, lambda content: numbers(content).get(key))
    return ("tradeoff.png", plot_tradeoff(curves, f"guidance.{key}")) if curves else None


def curves_over(key: str, found: Jobs, x: Callable[[Any], float | None]) -> dict[str, list[tuple[float, Metrics]]]:
    """Return curves of sorted points (x, metrics) by name: one for each combination of the keys other than ``key``.

    Metrics are means over seeds. Jobs without the distance by which they are compared are left out. The result is empty
    if no curve varies x.

    Args:
        key: the configuration key that x belongs to, such as ``sampler.steps``; it is removed from the jobs' names.
        found: the contents of each job's ``metrics.json``, by the job's name.
        x: returns x from a job's contents, or None to leave the job out.
    """
    distance = distance_in(found)
    of_seeds: dict[str, dict[float, list[Metrics]]] = {}
    for job, content in found.items():
        if distance in content["metrics"] and (at := x(content)) is not None:
            name = re.sub(rf"(^|_)({re.escape(key)}|seed)-[^_]*", "", job).strip("_") or content["protocol"]["sampler"]
            of_seeds.setdefault(name, {}).setdefault(at, []).append(content["metrics"])
    if all(len(points) == 1 for points in of_seeds.values()):
        return {}
    return {name: [(at, _mean(points[at])) for at in sorted(points)] for name, points in of_seeds.items()}


def _mean(several: Sequence[Metrics]) -> Metrics:
    """Return the mean of each metric that all of several jobs have."""
    shared = [name for name in several[0] if all(name in metrics for metrics in several)]
    return {name: statistics.fmean(metrics[name] for metrics in several) for name in shared}


FIGURES: tuple[Callable[[Jobs], "tuple[str, Figure] | None"], ...] = (distance_by_evaluations, tradeoff)
