"""Compare runs: those that differ in seeds alone are one variant, and variants are compared with a baseline."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from diffsweep.comparison import statistics
from diffsweep.comparison.choices import headline, no_such_metric
from diffsweep.comparison.differences import ABSENT, fields_that_differ, value_of, varied, varies_making
from diffsweep.comparison.records import Record
from diffsweep.comparison.statistics import Difference, Interval, KeyImportance
from diffsweep.comparison.verdicts import plain_name, verdict
from diffsweep.errors import UserError
from diffsweep.metric_table import METRICS, metric

SPEED = "images_per_second"
PROTOCOL_FREE = (SPEED, "network_evaluations", "hours", "parameters")


@dataclass(frozen=True)
class Variant:
    """Runs of the same settings but the seed.

    Attributes:
        settings: the values of the keys by which variants differ.
        records: its runs.
    """

    settings: dict[str, str]
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The settings as they are typed, such as ``schedule=cosine sampler.steps=20``."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items() if value != ABSENT) or "all runs"

    def values(self, name: str) -> dict[int, float]:
        """Return a metric by seed; several runs of one seed count once, by their mean."""
        found: dict[int, list[float]] = {}
        for record in self.records:
            value = record.metrics.get(name, math.nan)
            if math.isfinite(value):
                seed = record.seed if record.seed is not None else unpaired_seed(record)
                found.setdefault(seed, []).append(value)
        return {seed: sum(values) / len(values) for seed, values in found.items()}

    def scores(self, name: str) -> dict[int, float]:
        """Return by seed what is compared: the metric, or its distance from its best value where that is finite."""
        known = metric(name)
        values = self.values(name)
        return {seed: known.shortfall(value) for seed, value in values.items()} if known.has_target else values

    def interval(self, name: str) -> Interval | None:
        """Return the mean of a metric over seeds with its interval; None if no run has it."""
        values = self.values(name)
        return statistics.interval(list(values.values())) if values else None

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, in order."""
        return sorted({record.seed for record in self.records if record.seed is not None})


@dataclass(frozen=True)
class Effect:
    """The difference that one value of a key makes over its baseline's value, other keys being equal.

    Attributes:
        key: the key, or an empty text where variants as a whole are compared.
        name: of the value or the variant.
        baseline: the name that it is compared with.
        difference: of the metric, or of its distance from its best value where that is finite.
        text: the verdict in words.
    """

    key: str
    name: str
    baseline: str
    difference: Difference
    text: str


class Comparison:
    """Variants, and what can be concluded of them.

    Args:
        records: of runs that have finished or not; those without the metric are left out of what is concluded.
        metric: the name of the metric; None for the first headline that most runs have.
        baseline: a variant's label, the value of a key, or the name of a run; None for the first variant.
        allow: fields of protocols in which runs may differ and yet be ranked.

    Raises:
        UserError: no run has the metric, or the baseline is no variant.
    """

    def __init__(
        self,
        records: Sequence[Record],
        metric: str | None = None,
        baseline: str | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        self.records, self.allow = list(records), tuple(allow)
        self.metric = metric if metric is not None else headline(self.records)
        if metric is not None and not any(metric in record.metrics for record in self.records):
            raise UserError(no_such_metric(metric, self.records))
        self.keys = varied(self.records)
        groups: dict[tuple[str, ...], list[Record]] = {}
        for record in self.records:
            groups.setdefault(tuple(value_of(record, key) for key in self.keys), []).append(record)
        self.variants = [
            Variant(dict(zip(self.keys, values, strict=True)), tuple(found)) for values, found in groups.items()
        ]
        self.baseline = self._find_baseline(baseline)

    def _find_baseline(self, baseline: str | None) -> Variant:
        measured = [variant for variant in self.variants if variant.values(self.metric)]
        if baseline is None:
            return (measured or self.variants)[0]
        text = baseline.strip()
        for variant in self.variants:
            names = [record.name for record in variant.records] + [str(record.folder) for record in variant.records]
            parts = [*variant.settings.values(), *(f"{key}={value}" for key, value in variant.settings.items())]
            if text == variant.label or text.rstrip("/") in names or text in parts:
                return variant
        labels = ", ".join(variant.label for variant in self.variants[:8])
        raise UserError(f"baseline={text} is no variant; the runs have {labels}; give one of them or a run's name")

    @cached_property
    def measured(self) -> list[Variant]:
        """The variants that have the metric."""
        return [variant for variant in self.variants if variant.values(self.metric)]

    @cached_property
    def differing(self) -> dict[str, list[tuple[str, str]]]:
        """The fields of protocols by which runs differ though they must not, each with values and a run of each."""
        if len(self.measured) < 2 or self.metric in PROTOCOL_FREE:
            return {}
        of = [record for variant in self.measured for record in variant.records if self.metric in record.metrics]
        together = len({record.sweep for record in of}) == 1 and of[0].sweep is not None
        differing = fields_that_differ(of, self.metric, together or varies_making(self.keys))
        return {name: values for name, values in differing.items() if name not in self.allow}

    @cached_property
    def refusal(self) -> str | None:
        """Why the variants cannot be ranked by the metric, in a line; None if they can."""
        differing = self.differing
        if not differing:
            return None
        name, values = next(iter(differing.items()))
        (value, run), (other, other_run) = values[:2]
        others = [other for other in list(differing)[1:] if not other.startswith(f"{name}.")]
        rest = f" (and {', '.join(others[:5])})" if others else ""
        label = metric(self.metric).label
        if self.metric.startswith(("val/", "train/")):
            return (
                f"{label} is not ranked: it depends on {name}{rest}, which is {value} in {run} and {other} in "
                f"{other_run}; compare samples (metrics=digits), or another metric="
            )
        return (
            f"{label} is not ranked: it was measured under different protocols, {name}{rest} is {value} in {run} and "
            f"{other} in {other_run}; measure all alike by evaluate.py, or rank them all the same with "
            f"allow=[{','.join(differing)}]"
        )

    @cached_property
    def effects(self) -> list[Effect]:
        """The differences from the baseline with their verdicts: of variants, or of each key's values on a grid.

        Intervals are corrected for their number, so that all of them cover together.
        """
        if self.refusal is not None or len(self.measured) < 2:
            return []
        pairs = self._pairs()
        level = 1 - (1 - statistics.LEVEL) / len(pairs)
        found = []
        for key, name, base, ours, theirs in pairs:
            difference = statistics.difference(ours, theirs, level)
            found.append(Effect(key, name, base, difference, verdict(name, base, difference, self.metric)))
        return found

    def _pairs(self) -> list[tuple[str, str, str, dict[int, float], dict[int, float]]]:
        """Return (key, name, baseline's name, our values by seed, the baseline's) of each comparison."""
        if len(self.keys) < 2 or not self._crossed():
            name = {id(v): plain_name(v.settings) for v in self.measured}
            return [
                ("", name[id(v)], plain_name(self.baseline.settings), v.scores(self.metric), self._reference())
                for v in self.measured
                if v is not self.baseline
            ]
        pairs = []
        for key in self.keys:
            base = self.baseline.settings[key]
            for value in dict.fromkeys(variant.settings[key] for variant in self.measured):
                if value != base:
                    ours, theirs = self._marginal(key, value, base)
                    names = (plain_name({key: value}), plain_name({key: base}))
                    pairs.append((key, *names, ours, theirs))
        return pairs

    def _reference(self) -> dict[int, float]:
        found = self.baseline.scores(self.metric)
        if not found:
            raise UserError(f"the baseline {self.baseline.label} has no {metric(self.metric).label}; choose another")
        return found

    def _crossed(self) -> bool:
        """Return whether each value of each key can be compared with the baseline's at the same other settings."""
        return all(
            all(self._marginal(key, value, self.baseline.settings[key]))
            for key in self.keys
            for value in {variant.settings[key] for variant in self.measured}
        )

    def _marginal(self, key: str, value: str, base: str) -> tuple[dict[int, float], dict[int, float]]:
        """Return the means by seed under two values of a key, over the other settings that both have."""
        sides: list[dict[tuple[int, tuple[str, ...]], float]] = []
        for at in (value, base):
            sides.append(
                {
                    (seed, tuple(v for k, v in variant.settings.items() if k != key)): number
                    for variant in self.measured
                    if variant.settings[key] == at
                    for seed, number in variant.scores(self.metric).items()
                }
            )
        shared = sides[0].keys() & sides[1].keys()
        by_seed: list[dict[int, list[float]]] = [{}, {}]
        for seed, rest in shared:
            for side, found in zip(sides, by_seed, strict=True):
                found.setdefault(seed, []).append(side[seed, rest])
        ours, theirs = ({seed: sum(x) / len(x) for seed, x in sorted(found.items())} for found in by_seed)
        return ours, theirs

    @cached_property
    def best(self) -> Variant | None:
        """The variant whose mean is best; None if variants cannot be ranked."""
        known = metric(self.metric)
        if self.refusal is not None or not known.ranks or len(self.measured) < 2:
            return None
        return min(self.measured, key=lambda variant: known.shortfall(_mean(variant, self.metric)))

    @cached_property
    def importance(self) -> KeyImportance | None:
        """The importance of each key for the metric; None where it cannot be found."""
        if self.refusal is not None or not self.keys:
            return None
        of = [(v.settings, seed, value) for v in self.measured for seed, value in v.values(self.metric).items()]
        rows, seeds, y = zip(*of, strict=True) if of else ((), (), ())
        return statistics.importance(rows, seeds, y)

    @cached_property
    def front(self) -> list[Variant]:
        """The Pareto front: variants that no other beats in the metric and in the speed of sampling, best first."""
        known = metric(self.metric)
        timed = [variant for variant in self.measured if variant.values(SPEED)]
        if self.refusal is not None or not known.ranks or self.metric == SPEED or len(timed) < 2:
            return []
        points = [(known.shortfall(_mean(v, self.metric)), seconds_per_thousand(v)) for v in timed]
        return [timed[k] for k in statistics.pareto(points)]

    @property
    def columns(self) -> list[str]:
        """The metrics that some run has, in the order of tables."""
        had = {name for record in self.records for name in record.metrics}
        shown = [name for name in METRICS if name in had]
        if self.metric in had and self.metric not in shown:
            shown.insert(0, self.metric)
        return shown

    @property
    def unfinished(self) -> list[Record]:
        """The runs that do not have the metric."""
        return [record for record in self.records if self.metric not in record.metrics]


def unpaired_seed(record: Record) -> int:
    """Return a negative number in the place of a seed that is not recorded; it pairs a run with no other."""
    return -1 - zlib.crc32(str(record.folder).encode())


def _mean(variant: Variant, name: str) -> float:
    values = variant.values(name)
    return sum(values.values()) / len(values)


def seconds_per_thousand(variant: Variant) -> float:
    """Return the seconds in which a variant draws a thousand samples, in the mean over its runs."""
    return 1000 / _mean(variant, SPEED)
