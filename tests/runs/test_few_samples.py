"""Metrics of too few samples are labelled, and numbers that are not finite are never written."""

import json
import math

import numpy as np
import pytest

from diffsweep.configuration.compose import compose
from diffsweep.datasets import Digits
from diffsweep.pictures import to_uint8
from diffsweep.runs import report
from diffsweep.runs.commands import evaluate
from diffsweep.runs.image_evaluation import evaluate_images


@pytest.mark.parametrize(("count", "few"), [(5, {"fid", "precision", "recall", "is"}), (60, {"fid"})])
def test_an_evaluation_of_few_samples_is_labelled(count, few, finished, tmp_path, capsys):
    """The protocol of metrics.json has the names, and the printed rows of these metrics, and no others, a remark."""
    sizes = ("metrics.kid_subset_size=5", "metrics.resamples=0", "metrics.reference=train", f"num_samples={count}")
    words = [
        f"run={finished}",
        "metrics=digits",
        "sampler=ddim",
        "sampler.steps=1",
        f"output={tmp_path / 'out'}",
        *sizes,
    ]
    evaluate(compose("evaluate", words))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(content["protocol"]["too_few_samples"]) == few
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "too few samples" in line]
    assert {row[0].lower() for row in rows} == few


def test_images_of_other_programs_are_labelled_too(tmp_path, capsys):
    """Few real images are too few as well for a number that compares both kinds."""
    pixels = to_uint8(Digits().split("train")["x"][:200])
    places = [f"{tmp_path / name}.npz" for name in ("fake", "real")]
    for count, place in zip((200, 40), places, strict=True):
        np.savez(place, arr_0=pixels[:count])
    words = ["metrics=digits", "trainer=cpu", f"images={places[0]}", f"reference={places[1]}", "metrics.resamples=0"]
    evaluate_images(compose("evaluate", [*words, f"output={tmp_path / 'out'}"]))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    few = {"fid", "precision", "recall"}  # and not IS, which is of the 200 alone
    assert set(content["protocol"]["too_few_samples"]) == few
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "too few samples" in line]
    assert {row[0].lower() for row in rows} == few


def test_numbers_that_are_not_finite_are_named_and_not_written(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    report.write_metrics(path, {"fid": math.nan, "is": 2.0, "kid": math.inf}, {"protocol": {"seed": 0}})
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert content["metrics"] == {"is": 2.0}
    assert content["not_finite"] == ["fid", "kid"]
    assert "not finite, and left out" in capsys.readouterr().out
