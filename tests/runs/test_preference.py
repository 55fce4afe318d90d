"""Runs that learn from preferences: pairs are compared once, resuming is exact, and the win rate is measured."""

import json
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from slower import some

from diffsweep.configuration.build import build_data, build_model
from diffsweep.configuration.compose import compose
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.preflight import preflight
from diffsweep.configuration.rules.preference import (
    compared_samples_are_of_one_size_and_kept_in_order,
    compared_samples_have_no_images_as_condition,
    winners_are_compared_with_losers,
)
from diffsweep.configuration.saved import load_config
from diffsweep.diffusion import DPO, KTO
from diffsweep.errors import UserError
from diffsweep.models import PreferenceModel
from diffsweep.runs.comparisons import keep_comparisons
from diffsweep.runs.duels import PICTURE, draw_duels, measure_duels
from diffsweep.runs.training import train

CLASSIFIER = (
    *("scorer=class_probability", "scorer.label=1"),
    'scorer.classifier.train=["model=classifier","trainer.max_steps=2","backbone.channels=8"]',
)
PAIRS = ("model=preference", "comparisons.num_pairs=40", "comparisons.sampler.steps=2", "model.num_duels=6")


@pytest.fixture(scope="module")
def start(finished_text):
    """``cfg = start(directory, *overrides)`` returns the configuration of a run that starts from the finished one."""

    def start(directory, *overrides, scorer=CLASSIFIER):
        places = (f"hydra.run.dir={directory}", f"paths.output_dir={directory.parent}", "logger=csv", "metrics=none")
        small = ("sampler=ddim", "sampler.steps=2", "trainer.max_steps=2", "dataset.batch_size=8")
        return compose("train", [f"from={finished_text}", *PAIRS, *places, *small, *scorer, *overrides])

    return start


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    """The directory of a run of four steps."""
    directory = tmp_path_factory.mktemp("preference") / "whole"
    train(start(directory, "trainer.max_steps=4", "trainer.log_every_n_steps=1"))
    return directory


@pytest.mark.slow
def test_a_run_begins_at_log_2_compares_once_and_measures_its_win_rate(start, trained, history):
    rows = [row for row in history(trained) if row["train/loss"]]
    assert rows[0]["train/loss"] == "0.69314718"  # log 2
    assert float(rows[0]["train/implicit_accuracy"]) == 0.5
    assert any(row["val/implicit_accuracy"] for row in history(trained))
    content = json.loads((trained / "metrics.json").read_text())
    assert 0 <= content["metrics"]["win_rate"] <= 1
    assert content["duels_protocol"]["num_duels"] == 6
    assert (trained / PICTURE).is_file()
    (file,) = trained.parent.glob("**/compared.safetensors")
    before = file.stat().st_mtime_ns
    cfg = start(trained.parent / "again")
    cfg.scorer.classifier.run = load_config(trained).scorer.classifier.run
    keep_comparisons(cfg, build_model(cfg), data := build_data(cfg))
    assert [one.stat().st_mtime_ns for one in trained.parent.glob("**/compared.safetensors")] == [before]
    assert (len(data.loader_samples("train")), len(data.loader_samples("val"))) == (38, 2)
    assert bool((data.loader_samples("train").score.diff(dim=1) < 0).all())


@pytest.mark.slow
def test_a_model_that_has_learned_nothing_wins_half_of_its_duels(trained, tmp_path):
    model = load_model(load_config(trained))
    data = build_data(load_config(trained))
    model.load_state_dict(model.reference.state_dict())
    duels = draw_duels(model, data, seed=0)
    assert torch.equal(duels.own, duels.theirs)
    numbers = measure_duels(model, data, 0, tmp_path)
    assert numbers == {"win_rate": 0.5} | dict.fromkeys(numbers.keys() - {"win_rate"}, 0.0)
    assert "colour_gain" in numbers


def test_images_of_several_sizes_and_streams_are_refused():
    """By the rules compared_samples_are_of_one_size_and_kept_in_order, winners_are_compared_with_losers and
    compared_samples_have_no_images_as_condition.
    """
    parts = SimpleNamespace(model=PreferenceModel, conditioning=SimpleNamespace(requires_pixels=True))
    for settings, message in (
        ({"buckets": 8}, "dataset.buckets=null"),
        ({"streaming": True}, "dataset.streaming=false"),
    ):
        cfg = OmegaConf.create({"dataset": settings})
        assert message in compared_samples_are_of_one_size_and_kept_in_order(cfg, parts)
    cfg = OmegaConf.create({"choices": {"conditioning": "image", "preference": "dpo"}, "dataset": {}})
    assert compared_samples_are_of_one_size_and_kept_in_order(cfg, parts) is None
    assert "conditioning=image reads images" in compared_samples_have_no_images_as_condition(cfg, parts)
    parts = SimpleNamespace(preference=DPO(), comparisons=SimpleNamespace(pairs=False))
    assert "has single images; use preference=kto" in winners_are_compared_with_losers(cfg, parts)
    parts.preference = KTO()
    assert winners_are_compared_with_losers(cfg, parts) is None


@pytest.mark.slow
def test_a_run_resumes_exactly_on_its_stored_comparisons(start, resume, trained, checkpoint, tmp_path):
    run = load_config(trained).scorer.classifier.run
    train(start(tmp_path / "half", "trainer.log_every_n_steps=1", f"scorer.classifier.run={run}"))
    train(resume(tmp_path / "half", "trainer.max_steps=4"))
    weights = [checkpoint(place)["state_dict"] for place in (trained, tmp_path / "half")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


REFUSED = [
    (["schedule=linear"], "the reference has schedule=cosine and the model schedule=linear"),
    (["backbone.dropout=0.1"], r"backbone.dropout=0.1 changes the losses of the model"),
    (["dataset.batch_size=64"], r"40 rows of compared samples fill no batch of dataset.batch_size=64"),
    (["scorer=attribute", "scorer.name=width"], r"scorer.name=width, and dataset=shapes reads x, y, radius"),
    (["preference=none"], r"use preference=dpo and comparisons=scored"),
    (["scorer=none"], r"comparisons=scored requires a score of images"),
]


@pytest.mark.parametrize("case", some(REFUSED, 2, ids=lambda case: " ".join(case[0])))
def test_what_cannot_be_compared_is_refused_in_one_line(start, tmp_path, case):
    """By the rules reference_has_the_process_of_the_model, preferences_are_compared_without_dropout,
    comparisons_fill_a_batch and the_scorer_reads_the_data, among others.
    """
    words, message = case
    cfg = start(tmp_path / "run", *words, scorer=())
    with pytest.raises(UserError, match=message) as caught:
        preflight(cfg)
    assert "\n" not in str(caught.value)
