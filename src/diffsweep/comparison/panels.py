"""Choose what the charts of a comparison show: curves over training, the metric over a key, speed, and importance."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from diffsweep.comparison.charts import Axis, ChartPoint, Series, bars, chart
from diffsweep.comparison.figures import LOSSES, curve, key_of_numbers, spans_decades
from diffsweep.comparison.statistics import Interval
from diffsweep.comparison.tables import cell
from diffsweep.comparison.variants import SPEED, Comparison, Variant, seconds_per_thousand
from diffsweep.metric_table import DISTANCES, metric

COLOURS = 12  # of the page's style
MOST = 60  # variants whose curves and samples are shown
POINTS, FEW = 80, 30  # of a curve with a colour, and of a grey one


class Styled(NamedTuple):
    """A variant with its position in the table, and the classes of the page's style that give its colour."""

    number: int
    variant: Variant
    style: str

    @property
    def coloured(self) -> bool:
        """Whether it has a colour of its own; the others are grey."""
        return not self.style.endswith("other")


class Panel(NamedTuple):
    """A chart with its heading and what is written below it."""

    title: str
    picture: Element
    note: str = ""


def styled(comparison: Comparison) -> list[Styled]:
    """Return the variants in the order of the table, with a colour for the baseline and for the best of the others.

    Where variants cannot be ranked, the first have colours.
    """
    known, name = metric(comparison.metric), comparison.metric
    order = list(range(len(comparison.variants)))
    if comparison.best is not None:
        means = [variant.interval(name) for variant in comparison.variants]
        order.sort(key=lambda k: math.inf if (found := means[k]) is None else known.shortfall(found.mean))
    order.sort(key=lambda k: comparison.variants[k] is not comparison.baseline)
    colours = {k: f"s{place}" for place, k in enumerate(sorted(order[:COLOURS]))}
    return [Styled(k, variant, f"v{k} {colours.get(k, 'other')}") for k, variant in enumerate(comparison.variants)]


def first_of(shown: Sequence[Styled], most: int = MOST) -> list[Styled]:
    """Return at most ``most`` variants, those with colours before others, in the order of the table."""
    return sorted(sorted(shown, key=lambda each: not each.coloured)[:most])


def panels(comparison: Comparison, shown: Sequence[Styled]) -> list[Panel]:
    """Return the charts of a comparison; those without data are left out."""
    some = first_of(shown)
    names = dict.fromkeys((comparison.metric, *DISTANCES))
    found = [_curves(some, name, 2) for name in (*LOSSES, *(f"eval/{name}" for name in names))]
    found += [_over_key(comparison, shown), _speed(comparison, shown), _importance(comparison)]
    return [panel for panel in found if panel is not None]


def _curves(shown: Sequence[Styled], name: str, least: int) -> Panel | None:
    """Return the chart of a column of metrics.csv over training; None if no run has recorded it ``least`` times."""
    label = metric(name.removeprefix("eval/")).label
    series = []
    for each in _grey_first(shown):
        points = [ChartPoint(*at) for at in zip(*curve(each.variant, name), strict=True)]
        points = _joined(points, POINTS if each.coloured else FEW)
        if not each.coloured:
            points = [ChartPoint(point.x, point.y) for point in points]
        series.append(Series(each.variant.label, each.style, points))
    if not any(len(one.points) >= least for one in series):
        return None
    values = [point.y for one in series for point in one.points if math.isfinite(point.y)]
    log = spans_decades(values)
    seeds = any(len(each.variant.seeds) > 1 for each in shown)
    note = "Means over seeds; bands reach from the lowest to the highest seed." if seeds else ""
    picture = chart(series, Axis("training step"), Axis(label, log), f"{label} over training of {len(series)} variants")
    return Panel(label, picture, note)


def _grey_first(shown: Sequence[Styled]) -> list[Styled]:
    """Return variants in the order in which they are drawn, so that those with colours are in front."""
    return sorted(shown, key=lambda each: each.coloured)


def _joined(points: Sequence[ChartPoint], most: int) -> list[ChartPoint]:
    """Return at most ``most`` points of a curve: means of neighbours, with the ends of all their bands."""
    size = -(-len(points) // most) if points else 1
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [
        ChartPoint(
            group[-1].x,
            sum(point.y for point in group) / len(group),
            min(point.low for point in group),
            max(point.high for point in group),
        )
        for group in groups
    ]


def _over_key(comparison: Comparison, shown: Sequence[Styled]) -> Panel | None:
    """Return the chart of the metric over a key of numbers; None if no key has three numbers or more."""
    measured = [each for each in shown if each.variant.values(comparison.metric)]
    key = key_of_numbers(comparison.keys, [each.variant for each in measured])
    if key is None:
        return None
    known = metric(comparison.metric)
    lines: dict[tuple[str, ...], list[ChartPoint]] = {}
    series = []
    for each in _grey_first(measured):
        point = _point(float(each.variant.settings[key]), each.variant.interval(comparison.metric), known.factor)
        others = tuple(f"{name}={value}" for name, value in each.variant.settings.items() if name != key)
        lines.setdefault(others, []).append(point)
        series.append(Series(_named(comparison, each), each.style, [point], marks=True))
    joined = [
        Series(" ".join(others), "joined", [ChartPoint(point.x, point.y) for point in sorted(points)])
        for others, points in lines.items()
    ]
    at = [float(each.variant.settings[key]) for each in measured]
    axis = Axis(key, min(at) > 0 and max(at) >= 8 * min(at))
    label = f"{known.label}{', %' if known.suffix == ' %' else ''}"
    picture = chart([*joined, *series], axis, Axis(label), f"{known.label} over {key}")
    note = "Bars are intervals over seeds." if any(math.isfinite(one.points[0].low) for one in series) else ""
    return Panel(f"{known.label} over {key}", picture, note)


def _speed(comparison: Comparison, shown: Sequence[Styled]) -> Panel | None:
    """Return the chart of the metric against the time of sampling with its Pareto front; None without a front."""
    if not comparison.front:
        return None
    known = metric(comparison.metric)
    series = [
        Series(_named(comparison, each), each.style, [_timed(comparison, each.variant)], marks=True)
        for each in _grey_first(shown)
        if each.variant.values(comparison.metric) and each.variant.values(SPEED)
    ]
    front = [_timed(comparison, variant) for variant in comparison.front]
    at = [one.points[0].x for one in series]
    axis = Axis("seconds per 1,000 samples", max(at) >= 4 * min(at))
    label = f"{known.label}{', %' if known.suffix == ' %' else ''}"
    title = f"{known.label} against sampling time"
    names = "; ".join(variant.label for variant in comparison.front)
    note = f"No other variant is better and faster: {names}." if len(front) > 1 else f"Best and fastest: {names}."
    return Panel(title, chart(series, axis, Axis(label), f"{title} of {len(series)} variants", front), note)


def _timed(comparison: Comparison, variant: Variant) -> ChartPoint:
    factor = metric(comparison.metric).factor
    return _point(seconds_per_thousand(variant), variant.interval(comparison.metric), factor)


def _point(x: float, found: Interval | None, factor: float) -> ChartPoint:
    if found is None:
        return ChartPoint(x, math.nan)
    return ChartPoint(x, *(factor * value for value in (found.mean, found.low, found.high)))


def _named(comparison: Comparison, each: Styled) -> str:
    return f"{each.variant.label}: {cell(comparison.metric, each.variant.interval(comparison.metric))}"


def _importance(comparison: Comparison) -> Panel | None:
    """Return the importance of each key as bars; None where it is not known."""
    found = comparison.importance
    if found is None:
        return None
    label = metric(comparison.metric).label
    shares: Mapping[str, float] = dict(sorted(found.shares.items(), key=lambda item: -item[1])[:12])
    title = f"Share of the variance of {label}"
    words = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
    return Panel(title, bars(shares, f"{title}: {words}"), f"By {found.method}.")
