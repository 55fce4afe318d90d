"""Draw charts as SVG in the colours of the page that they are in: lines with bands, points, bars, and intervals.

Classes of the page's style give the colours: ``line``, ``band``, ``mark`` and ``whisker`` have that of the group that
they are in, so that a chart has few characters, follows light and dark colours, and needs no further package.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from diffsweep.comparison.markup import element

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 10, 46  # margins, with ticks and labels
STRIP, TALL = 150, 18  # width and height of a single interval
ROW = 26  # height of a bar
TICKS = 5  # about as many on an axis


class ChartPoint(NamedTuple):
    """A point with the ends of its interval or band; nan without them."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Series(NamedTuple):
    """Points of one name.

    Attributes:
        name: shown where the mouse rests on them.
        style: classes of the group, which give its colour.
        points: in the order in which a line joins them.
        line: whether a line joins them, with a band between the ends of the points that have them.
        marks: whether each point has a mark, with a bar between its ends.
    """

    name: str
    style: str
    points: Sequence[ChartPoint]
    line: bool = True
    marks: bool = False


class Axis(NamedTuple):
    """An axis of a chart: its label, and whether its scale is logarithmic, as only positive values permit."""

    label: str
    log: bool = False


class _Scale:
    """A map from values to pixels.

    Args:
        limits: the lowest and the highest value.
        start: the pixel of the lowest value.
        end: that of the highest one.
        log: whether equal ratios, not equal differences, have equal lengths.
    """

    def __init__(self, limits: tuple[float, float], start: float, end: float, log: bool = False) -> None:
        self.limits, self._start, self._end, self.log = limits, start, end, log

    def __call__(self, value: float) -> str:
        """Return the pixel of a value; values outside the limits are at the nearer end."""
        low, high = self.limits
        value = min(max(value, low), high)
        share = math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)
        return f"{self._start + share * (self._end - self._start):.1f}".removesuffix(".0")

    def ticks(self) -> list[float]:
        """Return round values between the limits: of a logarithmic scale powers of ten, with 2 and 5 if few."""
        low, high = self.limits
        if self.log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factors in ((1,), (1, 2, 5)):
                found = [f * 10.0**k for k in decades for f in factors if low <= f * 10.0**k <= high]
                if len(found) >= 3:
                    return found[:: -(-len(found) // (2 * TICKS))]
        rough = (high - low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def limits_of(values: Iterable[float], ends: Iterable[float] = (), log: bool = False) -> tuple[float, float]:
    """Return the limits of an axis with room around the values.

    Args:
        values: which the limits contain; those that are not finite, or not positive on a logarithmic axis, are ignored.
        ends: of intervals; those that are further from the values than the values' own range are not contained, since
            an interval of two seeds can be many times as wide as all that is compared.
        log: whether the axis is logarithmic.
    """
    kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not kept:
        return (0.5, 2.0) if log else (0.0, 1.0)
    to, back = (math.log, math.exp) if log else (float, float)
    low, high = to(min(kept)), to(max(kept))
    span = high - low or abs(high) * 0.1 or 1.0
    reached = [to(end) for end in ends if math.isfinite(end) and (end > 0 or not log)]
    low, high = (
        min(low, max(low - span, min(reached, default=low))),
        max(high, min(high + span, max(reached, default=high))),
    )
    room = 0.06 * (high - low) or span / 2
    return back(low - room), back(high + room)


def chart(series: Sequence[Series], x: Axis, y: Axis, summary: str, front: Sequence[ChartPoint] = ()) -> Element:
    """Return a chart of series.

    Args:
        series: drawn in this order; points that are not finite, or not positive on a logarithmic axis, are left out.
        x: the horizontal axis.
        y: the vertical axis.
        summary: a sentence about the chart for readers who cannot see it.
        front: points that a dashed line joins.
    """
    kept = [one._replace(points=[point for point in one.points if _has_place(point, x, y)]) for one in series]
    points = [point for one in kept for point in one.points]
    across = _Scale(limits_of([p.x for p in points], log=x.log), LEFT, WIDTH - RIGHT, x.log)
    ends = [end for p in points for end in (p.low, p.high)]
    up = _Scale(limits_of([p.y for p in points], ends, y.log), HEIGHT - BOTTOM, TOP, y.log)
    picture = element(
        "svg",
        element("title", summary),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=summary,
    )
    picture.append(_axes(across, up, x, y))
    for one in kept:
        if one.points:
            picture.append(_group(one, across, up))
    if len(front) > 1:
        picture.append(element("path", class_="front", d=_path((across(p.x), up(p.y)) for p in front)))
    return picture


def _has_place(point: ChartPoint, x: Axis, y: Axis) -> bool:
    return all(math.isfinite(at) and (at > 0 or not axis.log) for at, axis in ((point.x, x), (point.y, y)))


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Element:
    """Return ticks, lines at the ticks, and labels."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    group = element("g", class_="axes", aria_hidden="true")
    for value in across.ticks():
        group.append(element("path", d=f"M{across(value)},{TOP}V{bottom}"))
        group.append(element("text", f"{value:.5g}", x=across(value), y=bottom + 16, text_anchor="middle"))
    for value in up.ticks():
        group.append(element("path", d=f"M{LEFT},{up(value)}H{right}"))
        group.append(element("text", f"{value:.5g}", x=LEFT - 6, y=up(value), text_anchor="end", dy="0.35em"))
    middle = (TOP + bottom) / 2
    group.append(element("text", x.label, x=(LEFT + right) / 2, y=HEIGHT - 8, text_anchor="middle"))
    group.append(
        element("text", y.label, x=14, y=middle, text_anchor="middle", transform=f"rotate(-90 14 {middle:.0f})")
    )
    return group


def _group(one: Series, across: _Scale, up: _Scale) -> Element:
    """Return the elements of a series: its band, its line and its marks with their bars."""
    group = element("g", element("title", one.name), class_=one.style)
    places = [(across(point.x), up(point.y)) for point in one.points]
    ended = [point for point in one.points if math.isfinite(point.low) and point.high > point.low]
    if one.line and len(ended) > 1:
        edge = [(across(p.x), up(p.low)) for p in ended] + [(across(p.x), up(p.high)) for p in reversed(ended)]
        group.append(element("path", class_="band", d=f"{_path(edge)}Z"))
    if one.line and len(places) > 1:
        group.append(element("path", class_="line", d=_path(places)))
    if one.marks and ended:
        bars = "".join(f"M{across(p.x)},{up(p.low)}V{up(p.high)}" for p in ended)
        group.append(element("path", class_="whisker", d=bars))
    if one.marks or len(places) == 1:
        group.extend(element("circle", class_="mark", cx=at, cy=height, r=4) for at, height in places)
    return group


def _path(places: Iterable[tuple[str, str]]) -> str:
    return "M" + " ".join(f"{x},{y}" for x, y in places)


def strip(
    point: ChartPoint, limits: tuple[float, float], style: str, dots: Sequence[float] = (), at: float = math.nan
) -> Element:
    """Return a mean with its interval as one line of a table; its meaning is in the text beside it.

    Args:
        point: the mean is its y; its x is not used.
        limits: the lowest and the highest value, the same in all lines of a table.
        style: classes that give its colour.
        dots: single values, such as those of seeds.
        at: a value where a vertical line is drawn; nan for none.
    """
    scale = _Scale(limits, 5, STRIP - 5)
    picture = element("svg", class_=f"strip {style}", viewBox=f"0 0 {STRIP} {TALL}", aria_hidden="true")
    if math.isfinite(at):
        picture.append(element("path", class_="zero", d=f"M{scale(at)},0V{TALL}"))
    if math.isfinite(point.low):
        picture.append(element("path", class_="whisker", d=f"M{scale(point.low)},9H{scale(point.high)}"))
    if dots:
        picture.append(element("path", class_="dots", d="".join(f"M{scale(value)},5v8" for value in dots)))
    picture.append(element("circle", class_="mark", cx=scale(point.y), cy=9, r=4))
    return picture


def bars(shares: Mapping[str, float], summary: str) -> Element:
    """Return shares of a whole as horizontal bars with their names and percentages.

    Args:
        shares: in [0, 1] by name.
        summary: a sentence about them for readers who cannot see them.
    """
    height, start = ROW * len(shares), WIDTH * 0.42
    picture = element("svg", class_="chart", viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=summary)
    for number, (name, share) in enumerate(shares.items()):
        top, length = number * ROW, max(1.0, share * (WIDTH - start - 54))
        middle = {"y": top + ROW / 2, "dy": "0.35em"}
        label = name if len(name) <= 30 else f"{name[:29]}\u2026"
        row = element("g", element("title", name), element("text", label, x=start - 8, text_anchor="end", **middle))
        row.append(element("rect", class_="bar", x=start, y=top + 4, width=length, height=ROW - 8))
        row.append(element("text", f"{share:.0%}", x=start + length + 6, **middle))
        picture.append(row)
    return picture
