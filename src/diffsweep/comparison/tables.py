"""Tables of a comparison, as aligned lines for a terminal, as markdown and as CSV."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

from diffsweep.comparison.records import Record
from diffsweep.comparison.statistics import LEVEL, MANY, Interval
from diffsweep.comparison.variants import Comparison, Variant, seconds_per_thousand
from diffsweep.comparison.verdicts import counted, rounded
from diffsweep.metric_table import metric
from diffsweep.shell import one_line

NUMBER = re.compile(
    r"[-+]?[\d.,]+(e[-+]?\d+)?( \+- [\d.]+)?( ?[kMGT]?B| ?%| dB)?"
)  # a cell that is aligned on the right
HIDDEN = ("train/loss", "val/eps_mse")  # of the tables of variants; the curves show them
CONSTANT = ("network_evaluations", "parameters")  # shown where they differ
MOST_RUNS = 60  # rows of the table of single runs
Rows = Sequence[Sequence[str]]


def matrix(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a table as text: a line of column names, and a line for each named row, aligned.

    Args:
        columns: the names of the columns.
        rows: by the name of each row, its cells, one for each column.
    """
    widths = [max(10, len(column), *(len(cells[i]) for cells in rows.values())) for i, column in enumerate(columns)]
    first = max(map(len, rows))
    lines = {"": columns, **rows}
    return "\n".join(
        f"  {name:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines.items()
    )


def aligned(columns: Sequence[str], rows: Rows) -> str:
    """Return rows under the names of their columns, as aligned lines; columns of numbers are aligned on the right."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    right = [all(not row[i] or NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join(
        "  "
        + "  ".join(
            f"{cell:>{width}}" if at_right else f"{cell:<{width}}"
            for cell, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (columns, *rows)
    )


def markdown(columns: Sequence[str], rows: Rows) -> str:
    """Return rows under the names of their columns as a table of markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def cell(name: str, found: Interval | None) -> str:
    """Return a metric of a variant as ``mean +- half-width``; the value alone of one seed, and nothing without any."""
    if found is None:
        return ""
    known = metric(name)
    if math.isnan(found.low) or found.half == 0:
        return known.shown(found.mean)
    mean, half = rounded(found.mean * known.factor, found.half * known.factor)
    return f"{mean} +- {half}{known.suffix}"


def shown_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics that tables show: the one that is compared first, then the others in their order."""
    others = [name for name in comparison.columns if name not in (*HIDDEN, comparison.metric)]
    for name in CONSTANT:
        had = {record.metrics[name] for record in comparison.records if name in record.metrics}
        if name in others and len(had) == 1:
            others.remove(name)
    return [comparison.metric, *others]


def by_variant(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table by what varied: settings, number of seeds, and metrics."""
    names = shown_metrics(comparison)
    columns = [*comparison.keys, "seeds", *(metric(name).label for name in names)]
    rows = [
        [
            *(variant.settings[key] for key in comparison.keys),
            str(len(variant.values(comparison.metric))),
            *(cell(name, variant.interval(name)) for name in names),
        ]
        for variant in comparison.variants
    ]
    return columns, rows


def by_run(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table of single runs: name, state and metrics."""
    names = shown_metrics(comparison)
    columns = ["run", "seed", "state", *(metric(name).label for name in names)]
    rows = [
        [
            record.name,
            "" if record.seed is None else str(record.seed),
            record.state,
            *(metric(name).shown(record.metrics[name]) if name in record.metrics else "" for name in names),
        ]
        for record in comparison.records
    ]
    return columns, rows


def as_csv(comparison: Comparison) -> str:
    """Return the table of variants as CSV: settings, seeds, and of each metric mean, low and high end.

    The ends are empty where a variant has one seed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = comparison.columns
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow([*comparison.keys, "seeds", *ends])
    for variant in comparison.variants:
        writer.writerow(
            [
                *(variant.settings[key] for key in comparison.keys),
                len(variant.values(comparison.metric)),
                *(number for name in names for number in _numbers(variant.interval(name))),
            ]
        )
    return text.getvalue()


def _numbers(found: Interval | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    return ["" if math.isnan(value) else f"{value:.6g}" for value in (found.mean, found.low, found.high)]


def heading(comparison: Comparison) -> str:
    """Return in a line what is compared by what, and how many runs have which state."""
    keys: Sequence[str] = comparison.keys or ["nothing but the seed"]
    label = metric(comparison.metric).label
    count = len(comparison.records)
    return f"{label} by {', '.join(keys)}; {count} run{'s' * (count > 1)}, {counted(comparison.records)}"


def conclusions(comparison: Comparison) -> list[str]:
    """Return what can be concluded, a sentence each: verdicts or why none is drawn, the best variant, the front."""
    found = [] if comparison.refusal is None else [comparison.refusal]
    found += [effect.text for effect in comparison.effects]
    label = metric(comparison.metric).label
    if len(comparison.measured) < 2:
        found.append(f"the runs differ in {'nothing but the seed' if len(comparison.records) > 1 else 'nothing'}")
    if (best := comparison.best) is not None and len(comparison.measured) > 2:
        found.append(
            f"best mean {label}: {best.label} with {cell(comparison.metric, best.interval(comparison.metric))}"
        )
    if (importance := comparison.importance) is not None:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importance.shares.items())
        found.append(f"share of the variance of {label}: {shares} ({importance.method})")
    if len(comparison.front) > 1:
        points = ", ".join(_point(comparison, variant) for variant in comparison.front)
        found.append(f"no other is better and faster: {points}")
    return found


def _point(comparison: Comparison, variant: Variant) -> str:
    mean = variant.interval(comparison.metric)
    assert mean is not None
    value = metric(comparison.metric).shown(mean.mean)
    return f"{variant.label} ({value}, {seconds_per_thousand(variant):.3g} s per 1,000 samples)"


def how(comparison: Comparison) -> str:
    """Return in a sentence how the intervals were found."""
    most = max((len(variant.values(comparison.metric)) for variant in comparison.variants), default=0)
    if most < 2:
        return "One seed each: no intervals; seed=0,1,2 gives them."
    method = "Student's t" if most < MANY else "bootstrap-t"
    level = f"{LEVEL:.0%} intervals over seeds by {method}"
    count = len(comparison.effects)
    paired = all(effect.difference.paired for effect in comparison.effects)
    differences = "differences of runs that share a seed" if paired else "differences of means (Welch)"
    together = f", all {count} of them together (Bonferroni)" if count > 1 else ""
    return f"+- are {level}." + (f" Verdicts are {LEVEL:.0%} intervals of {differences}{together}." if count else "")


def troubles(records: Sequence[Record], name: str) -> list[str]:
    """Return a line for each run that failed, cannot be read, or has no number yet, the first five of them."""
    found = [
        f"{record.name} {'has failed' if record.state == 'failed' else f'is {record.state}'}"
        + (f": {record.error}" if record.error else f", without {metric(name).label}")
        for record in records
        if record.error or name not in record.metrics
    ]
    return found[:5] + ([f"and {len(found) - 5} more"] if len(found) > 5 else [])
