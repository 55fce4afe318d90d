"""Variants compared: names, verdicts, refusals, marginal effects, on runs with known differences."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from diffsweep.comparison.records import Record, read
from diffsweep.comparison.variants import Comparison
from diffsweep.errors import UserError

NOWHERE = Path("nowhere")
SCHEDULES = {"linear": 6.0, "cosine": 4.0}
NOISE = {0: 0.3, 1: -0.2, 2: 0.1}


def seeded(gap=2.0, seeds=(0, 1, 2)):
    """FID by schedule and seed: what a seed adds is in both schedules, and a little chance is in one."""
    return {
        (schedule, seed): 6.0 - gap * (schedule == "cosine") + 3 * NOISE[seed] + 0.1 * seed * (schedule == "cosine")
        for schedule in SCHEDULES
        for seed in seeds
    }


def test_a_real_difference_is_stated_with_its_interval(write_sweep):
    comparison = Comparison(read([write_sweep(seeded())]))
    (effect,) = comparison.effects
    expected = stats.ttest_1samp([-2.0, -1.9, -1.8], 0).confidence_interval(0.95)
    assert (effect.difference.low, effect.difference.high) == pytest.approx((expected.low, expected.high))
    assert effect.text == "cosine is better than linear by 1.90 +- 0.25 FID over 3 seeds"
    assert comparison.best.label == "schedule=cosine"
    other = Comparison(comparison.records, baseline="cosine")
    assert other.effects[0].text == "linear is worse than cosine by 1.90 +- 0.25 FID over 3 seeds"


def test_a_difference_that_is_not_seen_is_stated_with_the_one_that_would_be(write_sweep):
    (effect,) = Comparison(read([write_sweep(seeded(gap=0.1))])).effects
    assert effect.text == (
        "no difference in FID seen between cosine and linear (0.00 +- 0.25): 3 seeds would show one of 0.33"
    )


def test_the_best_copy_ratio_is_one(write_sweep):
    ratios = {"linear": 1.4, "cosine": 0.9}
    ratio = lambda schedule, seed: ratios[schedule] + 0.01 * seed  # noqa: E731
    comparison = Comparison(read([write_sweep(seeded(), copy_ratio=ratio)]), metric="copy_ratio")
    assert comparison.best.label == "schedule=cosine"
    assert comparison.effects[0].text.startswith("cosine is better than linear by 0.320 +- 0.0")
    assert "|copy ratio - 1|" in comparison.effects[0].text


def test_higher_is_better_where_the_table_states_it(write_sweep):
    score = lambda schedule, seed: SCHEDULES[schedule] + 0.01 * seed * SCHEDULES[schedule]  # noqa: E731
    records = read([write_sweep(seeded(), **{"is": score})])
    assert "cosine is worse than linear by 2.0" in Comparison(records, metric="is").effects[0].text


def test_one_seed_shows_no_difference(write_sweep):
    comparison = Comparison(read([write_sweep(seeded(seeds=(0,)))]))
    assert comparison.effects[0].text == (
        "cosine has -2 FID against linear in one seed, which cannot show whether the difference is real; run seed=0,1,2"
    )


def test_runs_under_different_protocols_are_not_ranked(write_sweep, tmp_path, write_run):
    protocol = lambda schedule: {"num_samples": 80 if schedule == "linear" else 90}  # noqa: E731
    comparison = Comparison(read([write_sweep(seeded(), protocol=protocol)]))
    assert comparison.effects == []
    assert comparison.best is comparison.importance is None
    assert "num_samples is 80 in 0_schedule-linear_seed-0 and 90 in 3_schedule-cosine_seed-0" in comparison.refusal
    assert "allow=[num_samples]" in comparison.refusal
    assert len(Comparison(comparison.records, allow=["num_samples"]).effects) == 1


def test_how_samples_are_made_may_differ_where_that_is_compared(tmp_path, write_run):
    """A schedule is not better because its runs are sampled in more steps; a number of steps may be."""
    for steps in (10, 50):
        for seed in (0, 1):
            of = {"values": {"sampler.steps": steps, "seed": seed}, "protocol": {"steps": steps}}
            write_run(tmp_path / "steps" / f"{steps}-{seed}", {"fid": 90 / steps + seed}, **of)
            more = {"choices": {"schedule": "linear" if steps == 10 else "cosine"}}
            write_run(tmp_path / "both" / f"{steps}-{seed}", {"fid": 90 / steps + seed}, **of, **more)
    assert Comparison(read([tmp_path / "steps"])).refusal is None
    assert "steps is 10 in 10-0 and 50 in 50-0" in Comparison(read([tmp_path / "both"])).refusal


def test_runs_of_different_datasets_are_not_ranked(tmp_path, write_run):
    write_run(tmp_path / "a", {"fid": 1.0}, {"dataset": "digits"})
    write_run(tmp_path / "b", {"fid": 2.0}, {"dataset": "shapes"}, protocol={"data": "shapes-1"})
    assert "data is digits-1797 in a and shapes-1 in b" in Comparison(read([tmp_path])).refusal


def test_losses_under_different_schedules_are_not_ranked(write_sweep):
    comparison = Comparison(read([write_sweep(seeded())]), metric="val/loss")
    assert "depends on schedule" in comparison.refusal
    assert "num_samples" not in comparison.refusal


def test_a_metric_that_no_run_has_is_answered_with_those_they_have(write_sweep):
    records = read([write_sweep(seeded())])
    with pytest.raises(UserError, match=r"metric=kid: no run has it; the runs have fid"):
        Comparison(records, metric="kid")
    with pytest.raises(UserError, match=r"baseline=sigmoid is no variant; the runs have schedule=linear"):
        Comparison(records, baseline="sigmoid")
    with pytest.raises(UserError, match="1 runs has a metric yet; they are waiting"):
        Comparison([Record("a", NOWHERE, state="waiting")])


def made(keys, values, seeds=(0, 1, 2)):
    """Records of a grid, whose FID is given by a function of its settings and the seed."""
    found = []
    for place in np.ndindex(*map(len, keys.values())):
        settings = {key: options[k] for (key, options), k in zip(keys.items(), place, strict=True)}
        for seed in seeds:
            name = "_".join([*settings.values(), str(seed)])
            typed = {**settings, "seed": str(seed)}
            metrics = {"fid": values(settings, seed), "images_per_second": 100.0}
            found.append(Record(name, NOWHERE / name, {"seed": seed}, typed, metrics, sweep=NOWHERE))
    return found


def test_on_a_grid_each_key_is_judged_over_the_others():
    chance = np.random.default_rng(0).normal(0, 0.05, 12).tolist()

    def fid(settings, seed):
        return 5 + 2 * (settings["schedule"] == "cosine") - (settings["prediction"] == "v") + seed + chance.pop()

    keys = {"schedule": ["linear", "cosine"], "prediction": ["eps", "v"]}
    comparison = Comparison(made(keys, fid))
    first, second = comparison.effects
    assert first.text.startswith("cosine is worse than linear by 2.0")
    assert second.text.startswith("v is better than eps by 0.97 +- 0.14 FID over 3 seeds")
    assert comparison.best.label == "schedule=linear prediction=v"
    assert comparison.importance.shares["schedule"] > comparison.importance.shares["prediction"] > 0.05


def test_intervals_of_several_variants_cover_together_in_95_percent_of_sweeps():
    """Four schedules of one true FID: with the correction a difference is seen in at most 5 % of sweeps."""
    rng = np.random.default_rng(0)
    keys = {"schedule": ["a", "b", "c", "d"]}
    sweeps, wrong = 400, 0
    for _ in range(sweeps):
        shared = rng.normal(0, 2, 3)
        comparison = Comparison(made(keys, lambda settings, seed, of=shared: 5 + of[seed] + rng.normal(0, 0.5)))
        wrong += any(not effect.difference.low <= 0 <= effect.difference.high for effect in comparison.effects)
    assert wrong <= stats.binom.ppf(0.999, sweeps, 0.05)


def test_the_front_has_variants_that_no_other_beats_in_speed_and_distance(write_sweep):
    speeds, values = {10: 500.0, 20: 250.0, 50: 100.0, 30: 90.0}, {10: 9.0, 20: 5.0, 50: 4.0, 30: 6.0}
    fids = {(steps, 0): values[steps] for steps in speeds}
    folder = write_sweep(fids, key="sampler.steps", images_per_second=lambda steps, seed: speeds[steps])
    front = Comparison(read([folder])).front
    assert [variant.settings["sampler.steps"] for variant in front] == ["50", "20", "10"]


def test_the_same_run_measured_twice_counts_as_one_seed(tmp_path, write_run):
    for name, fid in (("a", 1.0), ("b", 3.0)):
        write_run(tmp_path / name, {"fid": fid})
    (variant,) = Comparison(read([tmp_path])).variants
    assert variant.values("fid") == {0: 2.0}
    assert variant.label == "all runs"
