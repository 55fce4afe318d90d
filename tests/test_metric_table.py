"""The table of metrics covers what is measured, and ranks numbers as readers do."""

import pytest

from diffsweep.metric_table import HEADLINES, HIGHER, LOWER, METRICS, metric, named


def test_lower_is_better_of_distances_and_higher_of_scores_and_1_of_copies():
    values = (0.1, 0.9, 1.05, 1.4)
    best = {name: min(values, key=metric(name).shortfall) for name in ("fid", "is", "copy_ratio")}
    assert best == {"fid": 0.1, "is": 1.4, "copy_ratio": 1.05}


def test_numbers_are_printed_in_the_unit_that_their_label_names():
    assert (metric("kid").label, metric("kid").shown(0.0012345)) == ("KID x 1000", "1.23")
    assert metric("psnr").shown(30.2) == "30.20 dB"
    assert metric("psnr").shown(30.2, unit=False) == "30.20"


def test_an_unknown_metric_ranks_nothing():
    assert not metric("eval_seconds").ranks
    assert metric("eval_seconds").label == "eval seconds"


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_prints_a_number(name):
    assert any(character.isdigit() for character in metric(name).shown(0.5))


def test_headlines_are_minimised():
    """Sweeps minimise them."""
    assert {metric(name).best for name in HEADLINES} == {LOWER}


def test_names_for_a_tracker_have_a_prefix_unless_they_have_a_group():
    assert {"eval/fid", "val/loss"} <= set(named(LOWER, "eval/"))
    assert "eval/is" in named(HIGHER, "eval/")
    assert "eval/copy_ratio" not in {*named(LOWER, "eval/"), *named(HIGHER, "eval/")}
