"""State in plain words what a difference of two settings shows."""

import math
from collections.abc import Mapping

from diffsweep.comparison.records import Record
from diffsweep.comparison.statistics import Difference
from diffsweep.metric_table import metric


def plain_name(settings: Mapping[str, str]) -> str:
    """Return the name of a variant in a sentence: the value of a single key that is a word, else ``key=value`` each."""
    shown = {key: value for key, value in settings.items() if value != "-"}
    if len(shown) == 1:
        ((key, value),) = shown.items()
        words = value.replace("_", "").replace("-", "").replace(".", "")
        if "." not in key and words.isalnum() and words[0].isalpha() and value not in ("null", "true", "false"):
            return value
    return " ".join(f"{key}={value}" for key, value in shown.items()) or "the runs"


def rounded(value: float, half: float) -> tuple[str, str]:
    """Return a value and the half-width of its interval, both to the second digit of the half-width."""
    if not math.isfinite(half) or half <= 1e-9 * abs(value):
        return f"{value:.4g}", "0"
    digits = max(0, 1 - math.floor(math.log10(half)))
    if half >= 10:
        digits = 0
    return f"{value:.{digits}f}", f"{half:.{digits}f}"


def plus_minus(value: float, half: float) -> str:
    """Return ``value +- half`` with as many digits as the interval warrants; the value alone without an interval."""
    if not math.isfinite(half):
        return f"{value:.4g}"
    return " +- ".join(rounded(value, half))


def verdict(name: str, baseline: str, found: Difference, of: str) -> str:
    """Return in a sentence what a difference shows.

    Args:
        name: of the setting.
        baseline: the name of the setting that it is compared with.
        found: the difference of the metric, the setting's minus the baseline's. Of a metric that is best at a finite
            value it is the difference of the distances from that value.
        of: the name of the metric.
    """
    known = metric(of)
    label = f"|{known.label} - {known.best:g}|" if known.has_target else known.label
    mean, half, visible = (value * known.factor for value in (found.mean, found.half, found.detectable))
    if math.isnan(found.low):
        return (
            f"{name} has {mean:+.3g}{known.suffix} {label} against {baseline} in one seed, which cannot show whether "
            "the difference is real; run seed=0,1,2"
        )
    over = f"over {found.seeds} seeds" + ("" if found.paired else ", unpaired")
    if found.low <= 0 <= found.high:
        if found.low == found.high:
            return f"{name} and {baseline} have the same {label} in each of {found.seeds} seeds"
        return (
            f"no difference in {label} seen between {name} and {baseline} "
            f"({plus_minus(mean, half)}{known.suffix}): {found.seeds} seeds would show one of "
            f"{visible:{'.2g' if visible < 100 else '.0f'}}{known.suffix}"
        )
    size = f"{plus_minus(abs(mean), half)}{known.suffix}"
    if not known.ranks:
        return f"{name} has {'more' if found.mean > 0 else 'fewer'} {label} than {baseline} by {size} {over}"
    return f"{name} is {'better' if is_better(found, of) else 'worse'} than {baseline} by {size} {label} {over}"


def is_better(found: Difference, of: str) -> bool:
    """Return whether a difference as :func:`verdict` takes it is in favour of the setting, real or by chance.

    Args:
        found: the difference.
        of: the name of a metric that ranks.
    """
    known = metric(of)
    return (found.mean > 0) == (known.best > 0 and not known.has_target)


def counted(records: list[Record]) -> str:
    """Return in words how many runs have which state, such as ``5 finished, 1 failed``."""
    states: dict[str, int] = {}
    for record in records:
        states[record.state] = states.get(record.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in states.items())
