"""The page of a comparison, ``summary.html``: one file of HTML that loads nothing and can be sent as it is."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from PIL import Image

from diffsweep.comparison import figures, tables
from diffsweep.comparison.charts import ChartPoint, limits_of, strip
from diffsweep.comparison.differences import SEED, field_text, protocol_of
from diffsweep.comparison.embedded import embedded
from diffsweep.comparison.markup import as_page, element
from diffsweep.comparison.panels import Styled, first_of, panels, styled
from diffsweep.comparison.variants import Comparison, Effect
from diffsweep.comparison.verdicts import is_better
from diffsweep.metric_table import HIGHER, LOWER, metric

LARGEST = 480_000  # bytes of a page of up to a thousand variants
WITH_RUNS = 330_000  # bytes of a page with the table of single runs, before pictures
PICTURES = 320_000  # bytes of all pictures together
VERDICTS = 12  # that are shown at once
WIDTH_OF_SWATCH = 26
Nodes = list[Element]


def as_html(comparison: Comparison, title: str, command: str | None = None) -> str:
    """Return a comparison as a page of HTML: verdicts, a table that can be sorted, charts, samples and runs.

    The page has less than 500 kB for hundreds of variants: pictures are reduced until they fit, and the table of single
    runs is left out if it does not.

    Args:
        comparison: what is shown.
        title: the heading.
        command: that made the runs; None to leave it out.
    """
    shown = styled(comparison)
    sections = [
        _section("Results", _results(comparison)),
        _section("Variants", _variants(comparison, shown)),
        _section("Charts", _charts(comparison, shown)),
    ]
    size = sum(map(_size, sections)) + sum(len(_asset(name)) for name in ("page.css", "page.js"))
    runs = _section("Runs", _runs(comparison))
    if size + _size(runs) > WITH_RUNS:
        runs = _section("Runs", [element("p", f"summary.csv has the variants of {len(comparison.records)} runs.")])
    runs.extend(_protocol(comparison))
    size += _size(runs)
    sections += [_section("Samples", _samples(shown, min(PICTURES, LARGEST - size))), runs]
    header = element("header", element("h1", title), element("p", f"{tables.heading(comparison)}."), _theme())
    if command is not None:
        header.append(element("pre", element("code", command), class_="command", tabindex=0, aria_label="command"))
    body = element("body", header, element("main", *(section for section in sections if len(section) > 1)))
    heads = [element("title", f"{title}: {metric(comparison.metric).label}")]
    return as_page(heads, body, _asset("page.css"), _asset("page.js"))


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _size(node: Element) -> int:
    return len(tostring(node, encoding="utf-8", method="html"))


def _section(name: str, content: Nodes) -> Element:
    """Return a section with a heading; without content it has the heading alone."""
    return element("section", element("h2", name, id=name.lower()), *content, aria_labelledby=name.lower())


def _theme() -> Element:
    """Return the switch between light and dark colours, which works by the style alone."""
    choices = [
        element("label", element("input", type="radio", name="theme", value=value, checked=checked), value)
        for value, checked in (("auto", "checked"), ("light", None), ("dark", None))
    ]
    return element("fieldset", element("legend", "colours"), *choices, class_="theme")


def _typeset(text: str) -> str:
    """Return a text with the sign for plus or minus."""
    return re.sub(r"(^|(?<= ))\+-(?= )", "\u00b1", text)


def _results(comparison: Comparison) -> Nodes:
    """Return the refusal, if any, the verdicts with their intervals, and what else is concluded."""
    refused, effects = comparison.refusal, comparison.effects
    found: Nodes = []
    if refused is not None:
        found.append(element("p", element("strong", refused), class_="refusal", role="note"))
        rows = [(name, value, run) for name, values in comparison.differing.items() for value, run in values[:6]]
        found.append(_plain_table(("field of the protocol", "value", "for example in"), rows))
    if effects:
        ends = [end for effect in effects for end in (effect.difference.low, effect.difference.high)]
        limits = limits_of([0.0, *(effect.difference.mean for effect in effects)], ends)
        verdicts = [_verdict(effect, comparison.metric, limits) for effect in effects]
        found.append(element("ul", *verdicts[:VERDICTS], class_="verdicts"))
        if more := verdicts[VERDICTS:]:
            summary = element("summary", f"{len(more)} more verdicts")
            found.append(element("details", summary, element("ul", *more, class_="verdicts")))
        if len(ends) > sum(map(math.isnan, ends)):
            found.append(element("p", "Bars are intervals of differences; the dotted line is 0.", class_="note"))
    rest = tables.conclusions(comparison)[len(effects) + (refused is not None) :]
    if rest:
        found.append(element("ul", *(element("li", _typeset(line)) for line in rest)))
    found.append(element("p", _typeset(tables.how(comparison)), class_="note"))
    if lines := tables.troubles(comparison.records, comparison.metric):
        found.append(element("ul", *(element("li", line) for line in lines), class_="troubles"))
    return found


def _verdict(effect: Effect, name: str, limits: tuple[float, float]) -> Element:
    """Return a verdict in words, with a picture of the difference, its interval and 0."""
    found = effect.difference
    visible = math.isfinite(found.low) and not found.low <= 0 <= found.high
    kind = "unseen"
    if visible:
        kind = ("better" if is_better(found, name) else "worse") if metric(name).ranks else "differs"
    picture = strip(ChartPoint(0, found.mean, found.low, found.high), limits, kind, at=0.0)
    return element("li", picture, element("span", _typeset(effect.text)), class_=kind)


def _variants(comparison: Comparison, shown: Sequence[Styled]) -> Nodes:
    """Return the table of variants, whose first metric has a picture of its interval beside the numbers."""
    names = tables.shown_metrics(comparison)
    keys = comparison.keys or ["runs"]
    heads = [_head(key, key) for key in keys]
    heads += [_head("seeds", "seeds"), *(_head(name, metric(name).label, _direction(name)) for name in names)]
    spread = [each.variant.interval(names[0]) for each in shown]
    ends = [end for found in spread if found is not None for end in (found.low, found.high)]
    limits = limits_of([value for each in shown for value in each.variant.values(names[0]).values()], ends)
    rows = []
    for each in shown:
        variant, best = each.variant, each.variant is comparison.best
        settings = [variant.settings[key] for key in comparison.keys] or [variant.label]
        marks = [element("b", "best", class_="badge")] if best else []
        marks += [element("b", "baseline", class_="badge")] if variant is comparison.baseline else []
        first = element("th", _swatch(each), settings[0], " ", *marks, scope="row", data_v=_number(settings[0]))
        cells = [element("td", value, data_v=_number(value)) for value in settings[1:]]
        cells.append(element("td", str(len(variant.values(comparison.metric))), class_="n"))
        for place, name in enumerate(names):
            cells.append(_cell(comparison, each, name, limits if place == 0 else None))
        rows.append(element("tr", first, *cells, data_k=each.number, class_="best" if best else None))
    note = "The bar beside the first metric is its interval, the ticks are seeds." if limits else ""
    hint = " A row that is pointed at stands out in the charts." if len(shown) > 1 else ""
    return [_scrolled(heads, rows, "variants", "sort"), element("p", note + hint, class_="note screen")]


def _cell(comparison: Comparison, each: Styled, name: str, limits: tuple[float, float] | None) -> Element:
    """Return the cell of a metric of a variant, with a picture of its interval if limits are given."""
    found = each.variant.interval(name)
    if found is None:
        return element("td")
    mean, _, half = tables.cell(name, found).partition(" +- ")
    spread = element("small", f" \u00b1 {half}") if half else None
    picture = None
    if limits is not None:
        values = list(each.variant.values(name).values())
        dots = values if len(values) > 1 else ()
        picture = strip(ChartPoint(0, found.mean, found.low, found.high), limits, each.style, dots)
    return element("td", mean, spread, picture, data_v=f"{found.mean:.6g}", class_="n" if limits is None else "n wide")


def _head(name: str, label: str, direction: tuple[str, str] | None = None) -> Element:
    """Return the head of a column, by whose name the page can be sorted in its address."""
    sign = None
    if direction is not None:
        arrow, words = direction
        sign = element("abbr", arrow, title=words)
    return element("th", label, " " if sign is not None else None, sign, scope="col", data_c=name)


def _direction(name: str) -> tuple[str, str] | None:
    """Return a sign for the values of a metric that are best, with its meaning in words."""
    known = metric(name)
    if known.has_target:
        return f"\u2192 {known.best:g}", f"best is {known.best:g}"
    return {LOWER: ("\u2193", "lower is better"), HIGHER: ("\u2191", "higher is better")}.get(known.best)


def _number(text: str) -> str | None:
    """Return a text if it is a number, to sort it as one."""
    try:
        return text if math.isfinite(float(text)) else None
    except ValueError:
        return None


def _swatch(each: Styled) -> Element:
    line = element("path", class_="line", d=f"M0,5H{WIDTH_OF_SWATCH}")
    return element("svg", line, class_=f"swatch {each.style}", viewBox=f"0 0 {WIDTH_OF_SWATCH} 10", aria_hidden="true")


def _scrolled(heads: Nodes, rows: Nodes, name: str, address: str) -> Element:
    """Return a table that scrolls in a box of its own, and is sorted by ``#address=COLUMN`` of the page's address."""
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows), data_sort=address)
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"table of {name}")


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    heads = [element("th", column, scope="col") for column in columns]
    body = [element("tr", *(element("td", value) for value in row)) for row in rows]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=columns[0])


def _charts(comparison: Comparison, shown: Sequence[Styled]) -> Nodes:
    found = panels(comparison, shown)
    if not found:
        return []
    some = [each for each in shown if each.coloured]
    legend = [element("li", _swatch(each), each.variant.label, data_k=each.number) for each in some]
    if len(some) < len(shown):
        of_best = "the baseline and the best" if comparison.best is not None else "the first"
        legend.append(element("li", f"grey: the other {len(shown) - len(some)}; colours are of {of_best}"))
    drawn = [
        element(
            "figure",
            element("h3", panel.title),
            panel.picture,
            element("figcaption", _typeset(panel.note)) if panel.note else None,
        )
        for panel in found
    ]
    key = [element("ul", *legend, class_="legend", aria_label="colours of variants")] if len(shown) > 1 else []
    return [*key, element("div", *drawn, class_="figures")]


def _samples(shown: Sequence[Styled], most: int) -> Nodes:
    """Return the samples of variants side by side, of one seed, in at most ``most`` bytes."""
    some = first_of(shown)
    seed = figures.common_seed([each.variant for each in some])
    found = [(each, image) for each in some if (image := figures.samples_of(each.variant, seed)) is not None]
    if not found:
        return []
    cards = _cards(found, max(0, most - 400 * len(found)))
    left = "" if len(cards) == len(shown) else f", {len(cards)} of {len(shown)} variants"
    words = f"From the same noise, seed {seed}" if seed is not None else "The first samples"
    return [element("p", f"{words}{left}.", class_="note"), element("div", *cards, class_="samples")]


def _cards(found: Sequence[tuple[Styled, Image.Image]], most: int) -> Nodes:
    addresses = embedded([image for _, image in found], most)
    return [
        element(
            "figure",
            element("img", src=address, alt=f"samples of {each.variant.label}", width=image.width, height=image.height),
            element("figcaption", _swatch(each), each.variant.label),
            data_k=each.number,
        )
        for (each, image), address in zip(found, addresses, strict=False)
    ]


def _runs(comparison: Comparison) -> Nodes:
    """Return the table of single runs, which opens when it is clicked."""
    columns, rows = tables.by_run(comparison)
    names = ["run", "seed", "state", *tables.shown_metrics(comparison)]
    heads = [_head(name, column) for name, column in zip(names, columns, strict=True)]
    body = []
    for row in rows:
        cells = [element("td", value, class_="n" if place > 2 else None) for place, value in enumerate(row[1:], 2)]
        body.append(element("tr", element("th", row[0], scope="row"), *cells))
    summary = element("summary", f"{len(rows)} runs")
    return [element("details", summary, _scrolled(heads, body, "runs", "runs"))]


def _protocol(comparison: Comparison) -> Nodes:
    """Return the fields of the protocol that all runs share, which open when they are clicked."""
    of = [record for record in comparison.records if comparison.metric in record.metrics]
    protocols: list[Mapping[str, object]] = [protocol_of(record, comparison.metric) for record in of]
    shared = {
        name: value
        for name, value in (protocols[0] if protocols else {}).items()
        if name != SEED and all(protocol.get(name, "") == value for protocol in protocols)
    }
    if not shared:
        return []
    label = metric(comparison.metric).label
    parts = [part for name, value in shared.items() for part in (element("dt", name), element("dd", field_text(value)))]
    return [element("details", element("summary", f"what {label} of all runs depends on"), element("dl", *parts))]
