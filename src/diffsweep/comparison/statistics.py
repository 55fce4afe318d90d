r"""Statistics of runs that differ in settings and in seeds.

With values :math:`x_1, \ldots, x_n` of n seeds, mean :math:`\bar x` and standard deviation s, the interval of the mean
is :math:`\bar x \pm t_{n-1} s / \sqrt n`, with Student's t for few seeds; from ``MANY`` seeds on the quantiles of
:math:`(\bar x^* - \bar x) \sqrt n / s^*` over resamples take the place of those of t (the bootstrap-t, Efron and
Tibshirani 1993, chapter 12). Runs that share a seed see the same data in the same order and the same noise, so two
settings are compared by the differences :math:`d_i = a_i - b_i` of shared seeds, of which the same interval holds.

Where k settings are compared with one baseline, each interval has the level :math:`1 - 0.05 / k` (Bonferroni), so that
all k of them cover their differences together in at least 95 % of sweeps, and a verdict is that an interval excludes 0.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95
MANY = 20  # values from which on resamples give the quantiles; of fewer their quantiles are too narrow
RESAMPLES = 2000
POWER = 0.8  # probability with which a difference would be found that a verdict calls visible
FEWEST = 10  # runs that a forest can learn from
Values = Mapping[int, float]  # by seed


class Interval(NamedTuple):
    """A mean and its confidence interval; ``low`` and ``high`` are nan for a single value."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half of the width; nan for a single value."""
        return (self.high - self.low) / 2


class Difference(NamedTuple):
    """The difference of two settings, ours minus the baseline's.

    Attributes:
        mean, low, high: with its confidence interval; low and high are nan where one seed cannot give any.
        seeds: the number that both have if the runs are paired, else those of the setting with fewer.
        paired: whether the differences are of runs that share a seed.
        detectable: the true difference that as many seeds would show with probability ``POWER``; nan where unknown.
    """

    mean: float
    low: float
    high: float
    seeds: int
    paired: bool
    detectable: float

    @property
    def half(self) -> float:
        """Half of the width of the interval."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of values and its confidence interval.

    Args:
        values: at least one.
        level: probability with which the interval covers the true mean.
    """
    x = np.asarray(values, dtype=float)
    mean, count = float(x.mean()), len(x)
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    error = float(x.std(ddof=1)) / math.sqrt(count)
    low_t, high_t = _quantiles(x, level)
    return Interval(mean, mean - high_t * error, mean - low_t * error, count)


def _quantiles(x: np.ndarray, level: float) -> tuple[float, float]:
    """Return the lower and upper quantile of (mean of x - true mean) / standard error."""
    count, tail = len(x), (1 - level) / 2
    if count < MANY or x.std() == 0:
        high = float(stats.t.ppf(1 - tail, count - 1))
        return -high, high
    drawn = x[np.random.default_rng(0).integers(0, count, (RESAMPLES, count))]
    deviations = drawn.std(axis=1, ddof=1)
    kept = deviations > 0
    scores = (drawn.mean(axis=1)[kept] - x.mean()) * math.sqrt(count) / deviations[kept]
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def difference(ours: Values, baseline: Values, level: float = LEVEL) -> Difference:
    """Return the difference of two settings with its interval.

    It is paired over the seeds that both have. Without two shared seeds it is Welch's, of independent runs.

    Args:
        ours: values by seed, at least one.
        baseline: values by seed, at least one.
        level: probability with which the interval covers the true difference.
    """
    shared = sorted(ours.keys() & baseline.keys())
    if len(shared) >= 2:
        pairs = [ours[seed] - baseline[seed] for seed in shared]
        found = interval(pairs, level)
        error = float(np.std(pairs, ddof=1)) / math.sqrt(len(pairs))
        return Difference(*found, True, detectable(error, len(pairs) - 1, level))
    a, b = (np.array(list(values.values()), dtype=float) for values in (ours, baseline))
    count = min(len(a), len(b))
    if count < 2:
        pair = [ours[seed] - baseline[seed] for seed in shared]
        mean = pair[0] if pair else float(a.mean() - b.mean())
        return Difference(mean, math.nan, math.nan, 1, bool(pair), math.nan)
    mean = float(a.mean() - b.mean())
    parts = [float(x.var(ddof=1)) / len(x) for x in (a, b)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Difference(mean, mean, mean, count, False, 0.0)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Difference(mean, mean - half, mean + half, count, False, detectable(error, freedom, level))


def detectable(error: float, freedom: float, level: float = LEVEL) -> float:
    r"""Return the true difference that a t-test finds with probability ``POWER``.

    The power at a difference :math:`\delta` is :math:`P(|Z + \delta / e| > t \sqrt{V / f})`, with Z normal and V of the
    chi-squared distribution with f degrees of freedom.

    Args:
        error: e, the standard error of the difference.
        freedom: f.
        level: one minus the probability of the test to find a difference where none is.
    """
    return error * _detectable_errors(freedom, level) if error > 0 else 0.0


@functools.lru_cache(maxsize=256)
def _detectable_errors(freedom: float, level: float) -> float:
    """Return the difference, in standard errors, that a t-test finds with probability ``POWER``."""
    ranks = (np.arange(2000) + 0.5) / 2000
    bounds = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(stats.chi2.ppf(ranks, freedom) / freedom)

    def power(shift: float) -> float:
        return float(np.mean(special.ndtr(shift - bounds) + special.ndtr(-shift - bounds)))

    low, high = 0.0, 1.0
    while power(high) < POWER:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high


class KeyImportance(NamedTuple):
    """The share of the variance of a metric that each swept key accounts for.

    Attributes:
        method: how it was found, in words.
        shares: by key, in [0, 1], with pairs of keys (``a x b``) and ``seeds and chance`` for the rest, where known.
    """

    method: str
    shares: dict[str, float]


REST = "seeds and chance"


def importance(
    rows: Sequence[Mapping[str, str]], seeds: Sequence[int | None], y: Sequence[float]
) -> KeyImportance | None:
    """Return the importance of keys for a metric: by analysis of variance on a full grid, else by a forest.

    A grid is full if each combination of values has the same seeds.

    Args:
        rows: of each run, the values of the keys that vary.
        seeds: of each run.
        y: the metric of each run.

    Returns:
        The importance; None if no key varies, the metric is constant, nothing is left to judge chance by (one key and
        one seed), or no grid is full and the runs are too few.
    """
    keys = [key for key in (rows[0] if rows else {}) if len({row[key] for row in rows}) > 1]
    if not keys or len(set(y)) < 2:
        return None
    levels = [list(dict.fromkeys(row[key] for row in rows)) for key in keys]
    drawn = list(dict.fromkeys(seeds))
    shape = (*map(len, levels), len(drawn))
    cells = np.full(shape, np.nan)
    for row, seed, value in zip(rows, seeds, y, strict=True):
        place = tuple(level.index(row[key]) for level, key in zip(levels, keys, strict=True))
        cells[place + (drawn.index(seed),)] = value  # noqa: RUF005 - Python 3.10
    if len(keys) == 1 and len(drawn) == 1:
        return None
    if len(rows) == cells.size and np.isfinite(cells).all():
        return KeyImportance("analysis of variance on the full grid", variance_shares(cells, keys))
    if len(rows) < FEWEST:
        return None
    return KeyImportance("a random forest whose keys are permuted", _forest_shares(rows, keys, y))


def variance_shares(cells: np.ndarray, keys: Sequence[str]) -> dict[str, float]:
    r"""Return the shares of the variance that belong to keys, to pairs of keys, and to the rest (functional ANOVA).

    A function of independent keys is the sum of its means given one key, given two beyond those given one, and so on,
    whose variances add up (Hooker 2007; Hutter et al. 2014). From each share the part is taken that chance would give
    it: its degrees of freedom times the mean square of the rest.

    Args:
        cells: the metric on the grid, with an axis for each key and a last axis of seeds.
        keys: the names of the axes but the last.
    """
    centred = cells - cells.mean()
    total, axes = float((centred**2).sum()), range(cells.ndim)
    effects: dict[tuple[int, ...], np.ndarray] = {
        (k,): centred.mean(axis=tuple(a for a in axes if a != k), keepdims=True) for k in range(len(keys))
    }
    freedom: dict[tuple[int, ...], int] = {(k,): cells.shape[k] - 1 for k in range(len(keys))}
    pairs = list(itertools.combinations(range(len(keys)), 2))
    left = cells.size - 1 - sum(freedom.values())
    if left > sum((cells.shape[k] - 1) * (cells.shape[m] - 1) for k, m in pairs):  # else the pairs are the rest
        for k, m in pairs:
            mean = centred.mean(axis=tuple(a for a in axes if a not in (k, m)), keepdims=True)
            effects[k, m] = mean - effects[(k,)] - effects[(m,)]
            freedom[k, m] = freedom[(k,)] * freedom[(m,)]
    squares = {of: float((effect**2).sum()) * cells.size / effect.size for of, effect in effects.items()}
    left = cells.size - 1 - sum(freedom.values())
    chance = max(0.0, total - sum(squares.values())) / left if left > 0 else 0.0
    shares = {
        " x ".join(keys[k] for k in of): max(0.0, square - freedom[of] * chance) / total
        for of, square in squares.items()
    }
    return {**shares, REST: max(0.0, 1 - sum(shares.values()))}


def _forest_shares(rows: Sequence[Mapping[str, str]], keys: Sequence[str], y: Sequence[float]) -> dict[str, float]:
    """Return the share of the variance that a forest loses where the values of a key are permuted.

    The forest predicts runs that it has not learned from. Permuting a key increases the expected squared error by twice
    the variance that the key accounts for.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    x, target = np.stack([_column([row[key] for row in rows]) for key in keys], axis=1), np.asarray(y, dtype=float)
    generator, losses = np.random.default_rng(0), np.zeros(len(keys))
    for learned, left in KFold(min(5, len(y)), shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(100, random_state=0).fit(x[learned], target[learned])
        before = float(((forest.predict(x[left]) - target[left]) ** 2).sum())
        for k in range(len(keys)):
            for _ in range(10):
                permuted = x[left].copy()
                permuted[:, k] = generator.choice(x[:, k], len(left))
                losses[k] += (float(((forest.predict(permuted) - target[left]) ** 2).sum()) - before) / 10
    shares = np.maximum(0.0, losses / (2 * len(y) * target.var()))
    return {key: min(1.0, float(share)) for key, share in zip(keys, shares, strict=True)}


def _column(values: Sequence[str]) -> np.ndarray:
    """Return the values of a key as numbers: those that they are, or their ranks in alphabetical order."""
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        order = sorted(set(values))
        return np.array([float(order.index(value)) for value in values])


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of points that no other point beats in both numbers, lower being better, by the first."""
    front: list[int] = []
    lowest = math.inf
    for k in sorted(range(len(points)), key=lambda k: points[k]):
        if points[k][1] < lowest:
            front.append(k)
            lowest = points[k][1]
    return front
