"""Summaries: tables, files, the figure and its samples, of sweeps with known numbers."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from diffsweep.comparison import figures, tables
from diffsweep.comparison.records import read
from diffsweep.comparison.statistics import interval
from diffsweep.comparison.summary import summarise
from diffsweep.comparison.variants import Comparison

VALUES = {
    ("linear", 0): 6.0,
    ("linear", 1): 6.5,
    ("linear", 2): 6.2,
    ("cosine", 0): 4.0,
    ("cosine", 1): 4.6,
    ("cosine", 2): 4.2,
}


def test_the_table_has_means_and_intervals_over_seeds(write_sweep):
    columns, rows = tables.by_variant(Comparison(read([write_sweep(VALUES)])))
    assert columns[:3] == ["schedule", "seeds", "FID"]
    found = interval([6.0, 6.5, 6.2])
    assert rows[0][:3] == ["linear", "3", f"{found.mean:.2f} +- {found.half:.2f}"]


def test_the_csv_has_a_row_for_each_variant_with_the_ends_of_intervals(write_sweep):
    comparison = Comparison(read([write_sweep(VALUES)]))
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(comparison))))
    assert [row["schedule"] for row in rows] == ["linear", "cosine"]
    found = interval([4.0, 4.6, 4.2])
    assert [float(rows[1][name]) for name in ("fid", "fid_low", "fid_high")] == pytest.approx(found[:3], rel=1e-5)


def test_the_summary_is_printed_and_written(write_sweep):
    folder = write_sweep(VALUES, states={5: "failed"})
    text = summarise(folder)
    assert "cosine is better than linear by 1.97 +- 0.14 FID over 3 seeds" in text
    written = (folder / "summary.md").read_text()
    assert "python src/train.py -m schedule=... seed=..." in written
    assert "cosine is better than linear by 1.97" in written
    assert written.count("\n| ") == (2 + 2) + (2 + 6)  # two tables with their heads
    assert {f"summary.{kind}" for kind in ("md", "csv", "html", "png")} <= {path.name for path in folder.iterdir()}
    with Image.open(folder / "summary.png") as picture:
        assert picture.width > 800


def test_what_failed_is_named_and_the_rest_summarised(write_sweep):
    values = {**VALUES, ("sigmoid", 0): None}
    text = summarise(write_sweep(values, states={6: "failed"}))
    assert "6_schedule-sigmoid_seed-0 has failed" in text
    assert "cosine is better than linear" in text


def test_a_sweep_without_numbers_has_a_reason_for_a_summary(write_sweep, write_run, tmp_path):
    folder = write_sweep({("linear", 0): 1.0}, states={0: "failed"})
    for file in ("metrics.json", "metrics.csv"):
        next(folder.glob(f"*/{file}")).unlink()
    assert "no summary: none of 1 runs has a metric yet; they are failed" in summarise(folder)


def test_a_refusal_is_in_the_summary_in_place_of_verdicts(write_sweep):
    folder = write_sweep(VALUES, protocol=lambda schedule: {"num_samples": len(schedule) * 10, "data": schedule})
    text = summarise(folder)
    assert "not ranked" in text
    assert "better" not in text


def test_curves_have_the_mean_and_the_range_of_seeds(tmp_path, write_run):
    for seed, losses in enumerate([(4.0, 2.0), (2.0, 1.0), (3.0, 1.5, 9.0)]):
        write_run(tmp_path / str(seed), {"fid": 1.0}, values={"seed": seed}, losses=losses)
    (variant,) = Comparison(read([tmp_path])).variants
    assert figures.curve(variant, "val/loss") == ([2, 4], [3.0, 1.5], [2.0, 1.0], [4.0, 2.0])


def test_samples_are_of_one_seed_and_the_corner_of_the_grid(write_sweep):
    """The picture of each run has its seed in each pixel, and its number of columns from its left edge."""
    folder = write_sweep(VALUES)
    for run in folder.glob("*_seed-*"):
        cells = np.arange(9).repeat(10)[None].repeat(90, 0) + 100 * int(run.name[-1])
        Image.fromarray(cells.astype(np.uint8)).save(run / "final.png")
    variants = Comparison(read([folder])).variants
    assert figures.common_seed(variants) == 0
    shown = np.asarray(figures.samples_of(variants[1], 1))
    assert shown.shape == (50, 50)  # 80 samples are nine columns
    assert shown.min() == 100
    assert shown.max() == 104


def test_panels_are_left_out_without_data(write_sweep):
    comparison = Comparison(read([write_sweep(VALUES, images_per_second=lambda schedule, seed: 10.0)]))
    shown = comparison.measured
    assert figures._losses(None, comparison, shown)
    assert not figures._metric_curve(None, comparison, shown)
    assert not figures._front(None, comparison, shown)  # one is faster than none


def test_a_key_of_numbers_is_an_axis(write_sweep):
    values = {(steps, seed): 10.0 / steps + seed / 10 for steps in (5, 10, 50) for seed in (0, 1)}
    comparison = Comparison(read([write_sweep(values, key="sampler.steps")]))
    assert figures.key_of_numbers(comparison.keys, comparison.measured) == "sampler.steps"
    assert figures.key_of_numbers(comparison.keys, comparison.measured[:2]) is None
    words = Comparison(read([write_sweep(VALUES, name="words")]))
    assert figures.key_of_numbers(words.keys, words.measured) is None


def test_of_many_verdicts_the_first_are_printed_and_all_are_written(write_sweep):
    values = {(steps, seed): 10.0 / steps + seed for steps in range(1, 20) for seed in (0, 1)}
    folder = write_sweep(values, key="sampler.steps")
    text = summarise(folder)
    assert text.count("better than sampler.steps=1 ") == 12
    assert "and 6 more verdicts" in text
    assert "best mean FID: sampler.steps=19" in text
    assert (folder / "summary.md").read_text().count("better than sampler.steps=1 ") == 18


def test_axes_are_logarithmic_where_values_differ_much(write_sweep):
    """The time of sampling of three variants: within a third of each other, then one ten times the others."""
    values = {(schedule, 0): fid for schedule, fid in (("linear", 3.0), ("cosine", 2.0), ("sigmoid", 1.0))}
    for name, speeds, scale in (("alike", (300.0, 250.0, 200.0), "linear"), ("far", (300.0, 250.0, 20.0), "log")):
        by_schedule = dict(zip(("linear", "cosine", "sigmoid"), speeds, strict=True))
        folder = write_sweep(values, name, images_per_second=lambda value, seed, of=by_schedule: of[value])
        figure = figures.summary_figure(Comparison(read([folder])))
        (axis,) = [axis for axis in figure.axes if "per 1,000" in axis.get_xlabel()]
        assert axis.get_xscale() == scale
