"""Intervals, differences, power and importance, against distributions with known effects."""

import math

import numpy as np
import pytest
from scipy import stats

from diffsweep.comparison.statistics import (
    MANY,
    REST,
    detectable,
    difference,
    importance,
    interval,
    pareto,
    variance_shares,
)


def within_binomial_error(covered, level=0.95):
    """Whether a count of successes is one that 99.9 % of counts at this level are like."""
    low, high = stats.binom.interval(0.999, len(covered), level)
    return low <= sum(covered) <= high


def paired_sweep(rng, seeds, effect, spread):
    """Values by seed of two settings that share what a seed does, with a true difference."""
    of_seed = rng.normal(0, 5, seeds)
    a, b = (of_seed + rng.normal(0, spread, seeds) for _ in range(2))
    return dict(enumerate(a + effect)), dict(enumerate(b))


def test_the_interval_of_few_values_is_that_of_students_t():
    values = [4.1, 3.7, 4.4]
    found = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(interval([2.0]).low)


def test_a_paired_difference_is_the_paired_t_test_and_others_are_welchs():
    ours, baseline = {0: 1.0, 1: 2.5, 2: 2.0}, {0: 2.0, 1: 3.0, 2: 4.0}
    expected = stats.ttest_rel(list(ours.values()), list(baseline.values())).confidence_interval()
    found = difference(ours, baseline)
    assert found.paired
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    apart = difference(ours, {seed + 10: value for seed, value in baseline.items()})
    welch = stats.ttest_ind(list(ours.values()), list(baseline.values()), equal_var=False).confidence_interval()
    assert not apart.paired
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high))


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_the_interval_of_a_difference_covers_the_true_one_in_95_percent_of_sweeps(seeds):
    rng = np.random.default_rng(seeds)
    covered = []
    for _ in range(1000):
        found = difference(*paired_sweep(rng, seeds, effect=1.5, spread=1.0))
        covered.append(found.low <= 1.5 <= found.high)
    assert within_binomial_error(covered)


def test_the_bootstrap_covers_the_mean_of_skewed_values_where_student_is_lopsided():
    """Of exponential values t misses mostly on one side; the bootstrap-t is closer to even."""
    rng = np.random.default_rng(0)
    draws = rng.exponential(1.0, (1000, 40))
    misses = {"low": 0, "high": 0}
    for values in draws:
        found = interval(values)
        misses["low"] += found.low > 1
        misses["high"] += found.high < 1
    student = [stats.ttest_1samp(values, 0).confidence_interval(0.95) for values in draws]
    assert draws.shape[1] >= MANY
    assert sum(misses.values()) < sum(not low <= 1 <= high for low, high in student)
    assert within_binomial_error([False] * sum(misses.values()) + [True] * (1000 - sum(misses.values())))


def test_runs_that_share_seeds_show_smaller_differences():
    """The spread between seeds cancels."""
    ours, baseline = paired_sweep(np.random.default_rng(0), 4, effect=1.0, spread=0.1)
    apart = {seed + 10: value for seed, value in baseline.items()}
    assert difference(ours, baseline).half < 0.2 * difference(ours, apart).half


@pytest.mark.parametrize(("freedom", "level"), [(1, 0.8), (2, 0.95), (4, 0.975), (19, 0.95), (5.5, 0.99)])
def test_the_detectable_difference_has_the_power_of_the_noncentral_t(freedom, level):
    shift = detectable(1.0, freedom, level)
    bound = stats.t.ppf((1 + level) / 2, freedom)
    power = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
    assert power == pytest.approx(0.8, abs=2e-3)
    assert detectable(3.0, freedom, level) == pytest.approx(3 * shift)


def test_a_detectable_difference_is_found_as_often_as_promised():
    rng = np.random.default_rng(1)
    spread, seeds = 0.7, 3
    effect = detectable(spread * math.sqrt(2 / seeds), seeds - 1)
    found = [difference(*paired_sweep(rng, seeds, effect, spread)) for _ in range(1000)]
    assert within_binomial_error([each.low > 0 for each in found], 0.8)


def grid(effects, seeds, noise=0.0, joint=0.0):
    """Rows, seeds and values of a full grid of keys with additive effects and a product of the first two."""
    rng = np.random.default_rng(0)
    rows, drawn, y = [], [], []
    for place in np.ndindex(*map(len, effects.values())):
        values = [effect[k] for effect, k in zip(effects.values(), place, strict=True)]
        for seed in range(seeds):
            rows.append({key: str(k) for key, k in zip(effects, place, strict=True)})
            drawn.append(seed)
            y.append(sum(values) + joint * math.prod(values[:2]) + noise * rng.normal())
    return rows, drawn, y


def test_shares_of_an_additive_function_are_those_of_its_variances():
    effects = {"schedule": [-2.0, 2.0], "sampler": [-1.0, 0.0, 1.0]}
    found = importance(*grid(effects, seeds=1))
    variances = {key: np.var(effect) for key, effect in effects.items()}
    expected = {key: value / sum(variances.values()) for key, value in variances.items()}
    assert found.shares == pytest.approx({**expected, REST: 0.0}, abs=1e-12)
    assert "grid" in found.method


def test_pairs_of_keys_have_the_share_of_their_product():
    effects = {"a": [-1.0, 1.0], "b": [-1.0, 1.0], "c": [-1.0, 1.0]}
    shares = importance(*grid(effects, seeds=2, joint=2.0)).shares
    assert {key: share for key, share in shares.items() if share > 1e-12} == pytest.approx(
        {"a": 1 / 7, "b": 1 / 7, "c": 1 / 7, "a x b": 4 / 7}
    )


def test_a_key_without_effect_has_no_share_on_average():
    """Without the correction a key of five values and chance alone has 4 / 14 of the variance."""
    rng = np.random.default_rng(0)
    shares = [variance_shares(rng.normal(size=(5, 3)), ["key"])["key"] for _ in range(300)]
    assert np.mean(shares) < 0.17
    assert np.median(shares) < 0.1


def test_a_forest_finds_the_key_that_matters_where_the_grid_has_holes():
    rows, seeds, y = grid({"a": [0.0, 4.0, 8.0], "b": [0.0, 0.0, 0.0], "c": [0.0, 2.0]}, seeds=3, noise=0.1)
    found = importance(rows[:-1], seeds[:-1], y[:-1])
    assert "forest" in found.method
    assert found.shares["a"] == pytest.approx(32 / 3 / (32 / 3 + 1), abs=0.2)
    assert found.shares["b"] < 0.05 < found.shares["c"] < found.shares["a"]
    assert importance(rows[:5], seeds[:5], [1.0] * 5) is None
    assert importance(rows[:4], seeds[:4], y[:4]) is None  # too few for a forest


def test_the_front_has_the_points_that_nothing_beats():
    assert pareto([(3.0, 1.0), (2.0, 2.0), (2.5, 3.0), (1.0, 9.0), (3.0, 0.5)]) == [3, 1, 4]
    assert pareto([]) == []
