"""Evaluations that reuse features: their error, their count of evaluations, their protocol, and what is refused."""

import json
import math

import pytest
import torch

from diffsweep.comparison.differences import protocol_of
from diffsweep.comparison.records import read_run
from diffsweep.runs.cached import relative_distance

STEPS = ("sampler=ddim", "sampler.steps=4", "metrics=digits", "num_samples=40")


@pytest.fixture
def evaluated(command, finished, tmp_path):
    """Return a function that evaluates a finished run with further words: its folder and its ``metrics.json``."""

    def evaluated(name, *words):
        done = command("evaluate", f"run={finished}", *STEPS, f"output={tmp_path / name}", *words)
        assert done.code == 0, done.err
        return tmp_path / name, json.loads((tmp_path / name / "metrics.json").read_text())

    return evaluated


def test_the_error_of_a_cache_is_measured_and_kept_with_its_protocol(evaluated):
    """With an interval of 1 samples are those without a cache, and only the protocol differs."""
    _, plain = evaluated("plain")
    _, whole = evaluated("whole", "feature_cache=uniform", "feature_cache.interval=1")
    folder, half = evaluated("half", "feature_cache=uniform", "feature_cache.interval=2")
    assert "feature_cache" not in plain["protocol"]
    assert not {"cache_error", "partial_evaluations", "cache_protocol"} & {*plain, *plain["metrics"]}
    cache = whole["protocol"].pop("feature_cache")
    assert whole["protocol"] == plain["protocol"]
    assert cache == {"_target_": "diffsweep.backbones.UniformCache", "interval": 1, "branch": 1}
    assert whole["metrics"]["fid"] == plain["metrics"]["fid"]
    counts = ("cache_error", "partial_evaluations", "network_evaluations")
    assert [whole["metrics"][name] for name in counts] == [0, 0, 4]
    assert [half["metrics"][name] for name in counts[1:]] == [2, 4]
    assert 0 < half["metrics"]["cache_error"] < math.sqrt(2)
    assert len({content["protocol_id"] for content in (plain, whole, half)}) == 3
    record = read_run(folder)
    assert protocol_of(record, "cache_error") == half["cache_protocol"] != protocol_of(record, "fid")


def test_samples_of_another_seed_have_an_error_of_the_root_of_2():
    x, other = torch.randn(2, 2000, 30)
    assert relative_distance(x, x) == 0
    assert relative_distance(x, other) == pytest.approx(math.sqrt(2), rel=0.01)
    assert relative_distance(3 * x + 1, 3 * other + 1) == pytest.approx(relative_distance(x, other))


@pytest.mark.slow
def test_a_sweep_over_caches_has_a_table_of_their_errors(command, finished, tmp_path):
    words = ("feature_cache=uniform", "feature_cache.interval=1,2", f"output={tmp_path / 'sweep'}")
    done = command("evaluate", "-m", f"run={finished}", *STEPS, *words)
    assert done.code == 0, done.err
    header, *rows = (tmp_path / "sweep" / "results.csv").read_text().splitlines()
    assert "cache_error" in header
    assert len(rows) == 2


def test_a_network_without_such_features_is_refused_before_a_folder_is_made(command, tmp_path):
    done = command("train", "feature_cache=uniform", "model=noisy_classifier", f"paths.output_dir={tmp_path / 'runs'}")
    assert done.code == 2
    assert "[rule " in done.err.strip().splitlines()[-1]
    assert not (tmp_path / "runs").exists()
