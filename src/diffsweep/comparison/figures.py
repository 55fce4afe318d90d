"""Figures of a comparison: curves with bands, the metric of each variant, speed, and samples from the same noise."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffsweep.comparison.endings import endings
from diffsweep.comparison.records import Record
from diffsweep.comparison.variants import Comparison, Variant, seconds_per_thousand
from diffsweep.comparison.verdicts import plain_name
from diffsweep.metric_table import metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = ("final.png", "grid.png", "final.gif", "grid.gif")  # of the samples of a run or of an evaluation
MOST = 12  # variants with a curve or a picture
CROPPED = 5  # rows and columns of a grid of samples that are shown
WIDE = 24  # characters in a line of a picture's title
LOSSES = ("val/loss", "train/loss")
SPREAD = 4  # the ratio of the largest to the smallest value from which an axis is logarithmic


def summary_figure(comparison: Comparison) -> "Figure":
    """Draw a comparison on one page: loss curves, curves of the metric, the metric by variant, speed, and samples.

    Panels without data are left out. Bands reach from the lowest to the highest seed, bars are confidence intervals.
    """
    from matplotlib.figure import Figure

    shown = with_short_runs(comparison.measured[:MOST] or comparison.variants[:MOST])
    panels = [panel for panel in (_losses, _metric_curve, _metric_by_variant, _front) if panel(None, comparison, shown)]
    pictures = [(variant, image) for variant in shown if (image := samples_of(variant, common_seed(shown))) is not None]
    width = max(9.0, 5.0 * len(panels))
    across = 4 if len(pictures) <= 8 else 6
    down = -(-len(pictures) // across)
    heights = [4.2, *[width / across + 0.3] * down]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights) if pictures else figure
    top = parts[0] if pictures else figure
    for axis, panel in zip(np.atleast_1d(top.subplots(1, max(1, len(panels)))), panels, strict=False):
        panel(axis, comparison, shown)
        axis.grid(alpha=0.3)
    if len(shown) > 1 and len(panels) > 1:  # one panel has their names
        top.legend(*_legend(shown), loc="outside lower center", ncols=min(3, len(shown)), fontsize=8)
    for row in range(down):
        axes = np.atleast_1d(parts[row + 1].subplots(1, across))
        for place, axis in enumerate(axes):
            axis.set_axis_off()
            if row * across + place < len(pictures):
                variant, image = pictures[row * across + place]
                axis.imshow(image, cmap="gray", interpolation="nearest")
                axis.set_title("\n".join(textwrap.wrap(variant.label, WIDE)), fontsize=8)
    if pictures:
        parts[1].suptitle(f"samples from the same noise, seed {common_seed(shown)}", fontsize=9)
    return figure


def with_short_runs(shown: Sequence[Variant]) -> list[Variant]:
    """Return variants whose runs, if they differ in the key ``run``, are called by the ends of their paths."""
    short = endings(variant.settings["run"] for variant in shown if "run" in variant.settings)
    return [
        Variant({key: short[value] if key == "run" else value for key, value in each.settings.items()}, each.records)
        for each in shown
    ]


def _legend(shown: Sequence[Variant]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color(k), marker="o", markersize=4) for k in range(len(shown))]
    return lines, [variant.label for variant in shown]


def color(number: int) -> str:
    """Return the colour of a variant by its number."""
    return f"C{number % 10}"


def _losses(axis: "Axes | None", comparison: Comparison, shown: Sequence[Variant]) -> bool:
    """Draw the loss over training, and return whether any run has recorded it twice."""
    name = next((name for name in LOSSES if _recorded(shown, name, 3)), None) or next(
        (name for name in LOSSES if _recorded(shown, name, 2)), None
    )
    if axis is not None and name is not None:
        _draw_curves(axis, shown, name)
        axis.set(xlabel="step", ylabel=metric(name).label)
        if spans_decades([float(y) for line in axis.lines for y in np.asarray(line.get_ydata())]):
            axis.set_yscale("log")
    return name is not None


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether positive values differ so much that only a logarithmic axis shows them all."""
    return bool(values) and 0 < min(values) < max(values) / SPREAD


def _metric_curve(axis: "Axes | None", comparison: Comparison, shown: Sequence[Variant]) -> bool:
    """Draw the metric over training, and return whether any run has measured it twice."""
    name = f"eval/{comparison.metric}"
    if not _recorded(shown, name, 2):
        return False
    if axis is not None:
        _draw_curves(axis, shown, name)
        axis.set(xlabel="step", ylabel=metric(comparison.metric).label)
    return True


def _recorded(shown: Sequence[Variant], name: str, least: int) -> bool:
    return any(len(record.history.get(name, ())) >= least for variant in shown for record in variant.records)


def _draw_curves(axis: "Axes", shown: Sequence[Variant], name: str) -> None:
    """Draw the mean over seeds of a column of metrics.csv for each variant, with a band from lowest to highest."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, variant in enumerate(shown):
        steps, mean, low, high = curve(variant, name)
        axis.plot(steps, mean, color=color(number))
        axis.fill_between(steps, low, high, color=color(number), alpha=0.2, linewidth=0)


def curve(variant: Variant, name: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return steps, means, lowest and highest values over the runs of a variant, at steps that all of these recorded.

    Args:
        variant: its runs without this curve are left out.
        name: a column of ``metrics.csv``.
    """
    curves = [dict(record.history[name]) for record in variant.records if record.history.get(name)]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    values = [[found[step] for found in curves] for step in steps]
    return steps, [sum(at) / len(at) for at in values], [min(at) for at in values], [max(at) for at in values]


def _metric_by_variant(axis: "Axes | None", comparison: Comparison, shown: Sequence[Variant]) -> bool:
    """Draw the metric of each variant with its interval and seeds: over a key of numbers, if one has three values."""
    if axis is None:
        return bool(comparison.measured)
    name, key = comparison.metric, key_of_numbers(comparison.keys, shown)
    places = [float(variant.settings[key]) for variant in shown] if key is not None else list(range(len(shown)))
    lines: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for number, (variant, at) in enumerate(zip(shown, places, strict=True)):
        found = variant.interval(name)
        if found is not None:
            half = 0.0 if math.isnan(found.low) else found.half
            axis.errorbar([at], [found.mean], yerr=[half], fmt="o", capsize=4, color=color(number))
            values = list(variant.values(name).values())
            axis.plot([at] * len(values), values, "_", color=color(number), alpha=0.6)
            others = tuple(value for other, value in variant.settings.items() if other != key)
            lines.setdefault(others, []).append((at, found.mean))
    axis.set(ylabel=metric(name).label)
    if key is not None:
        for others, points in lines.items():
            axis.plot(*zip(*sorted(points), strict=True), color="gray", linewidth=0.8, zorder=0)
            axis.annotate(" ".join(others), max(points), xytext=(6, 0), textcoords="offset points", fontsize=7)
        axis.set(xlabel=key)
        if spans_decades(places):
            axis.set_xscale("log")
            axis.set_xticks(sorted(set(places)), [f"{place:g}" for place in sorted(set(places))])
            axis.minorticks_off()
    else:
        axis.set_xticks(range(len(shown)), [plain_name(v.settings) for v in shown], rotation=20, ha="right", fontsize=7)
        axis.set_xlim(-0.7, len(shown) - 0.3)
    return True


def key_of_numbers(keys: Sequence[str], shown: Sequence[Variant]) -> str | None:
    """Return the key with the most values whose values are all numbers, of those with at least three; None without."""
    counts: dict[str, int] = {}
    for key in keys:
        values = {variant.settings[key] for variant in shown}
        try:
            counts[key] = len({float(value) for value in values})
        except ValueError:
            continue
    return max((key for key in counts if counts[key] >= 3), key=lambda key: counts[key], default=None)


def _front(axis: "Axes | None", comparison: Comparison, shown: Sequence[Variant]) -> bool:
    """Draw the metric against the time of sampling, with a line through the Pareto front."""
    if len(comparison.front) < 2:
        return False
    if axis is not None:
        for number, variant in enumerate(shown):
            if variant.values("images_per_second"):
                axis.plot(*_point(comparison, variant), "o", color=color(number))
        axis.plot(*zip(*(_point(comparison, variant) for variant in comparison.front), strict=True), "k--", linewidth=1)
        axis.set(xlabel="seconds per 1,000 samples", ylabel=metric(comparison.metric).label)
        if spans_decades([float(x) for line in axis.lines for x in np.asarray(line.get_xdata())]):
            axis.set_xscale("log")
    return True


def _point(comparison: Comparison, variant: Variant) -> tuple[float, float]:
    found = variant.interval(comparison.metric)
    return seconds_per_thousand(variant), found.mean if found is not None else math.nan


def common_seed(shown: Sequence[Variant]) -> int | None:
    """Return the lowest seed that all variants have, or else the lowest of the first; None if no seed is recorded."""
    shared = set.intersection(*(set(variant.seeds) for variant in shown)) if shown else set()
    return min(shared or set(shown[0].seeds if shown else ()), default=None)


def samples_of(variant: Variant, seed: int | None) -> Image.Image | None:
    """Return the first samples of a variant's run of a seed, or of its first run; None if no picture was saved.

    Of a grid it is the corner of five by five; runs of one seed draw their samples from the same noise.
    """
    records = sorted(variant.records, key=lambda record: record.seed != seed)
    for record in records:
        for name in PICTURES:
            if (path := record.folder / name).is_file():
                return _corner(path, record)
    return None


def _corner(path: Path, record: Record) -> Image.Image:
    """Return the corner of a picture of a square grid of samples."""
    with Image.open(path) as image:
        picture = image.convert("RGB") if path.suffix == ".gif" else image.copy()
    count = record.protocols.get("protocol", {}).get("num_samples")
    columns = math.ceil(math.sqrt(min(100, count))) if isinstance(count, int) and count > 0 else CROPPED
    rows = -(-min(100, count) // columns) if isinstance(count, int) and count > 0 else CROPPED
    width, height = (
        round(side * min(CROPPED, cells) / cells) for side, cells in ((picture.width, columns), (picture.height, rows))
    )
    return picture.crop((0, 0, width, height))
