"""Choose the metric that runs are compared by."""

from collections.abc import Sequence

from diffsweep.comparison.records import Record
from diffsweep.errors import UserError
from diffsweep.metric_table import HEADLINES, METRICS


def headline(records: Sequence[Record]) -> str:
    """Return the metric that runs are compared by: the first of HEADLINES that many have: half as many as any.

    Raises:
        UserError: no run has any.
    """
    counts = {name: sum(name in record.metrics for record in records) for name in HEADLINES}
    if not any(counts.values()):
        states = ", ".join(sorted({record.state for record in records}))
        first = records[0]
        reason = f" ({first.error})" if first.error else ""
        raise UserError(
            f"none of {len(records)} runs has a metric yet; they are {states}{reason}: finish them, or measure them "
            "with evaluate.py"
        )
    most = max(counts.values())
    return next(name for name in HEADLINES if 2 * counts[name] >= most)


def no_such_metric(name: str, records: Sequence[Record]) -> str:
    """Return the line of an error for a metric that no run has."""
    had = dict.fromkeys(name for record in records for name in record.metrics if not name.endswith("_real"))
    shown = [known for known in METRICS if known in had] + sorted(had.keys() - METRICS.keys())
    return f"metric={name}: no run has it; the runs have {', '.join(shown) or 'no metric at all'}"
