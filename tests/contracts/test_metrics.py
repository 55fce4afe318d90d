"""What must hold for every option of conf/metrics."""

from pathlib import Path

import pytest

from diffsweep.configuration.build import build, build_metrics
from diffsweep.configuration.check import STAGE
from diffsweep.datasets import Digits, MovingDigits
from diffsweep.metric_table import DISTANCES

FILES = sorted((Path(__file__).parents[2] / "conf/metrics").glob("*.yaml"))
DOWNLOADED = {"fvd", "inception", "dinov2", "clip"}  # of files that users give: see tests/metrics
OPTIONS = [
    path.stem for path in FILES if path.stem not in DOWNLOADED and STAGE not in path.read_text()
]  # options with a stage need a trained network

DATA = {
    (1, 8, 8): Digits,
    (1, None, 16, 16): lambda: MovingDigits(num_frames=4, num_train=1200, num_val=100),
}  # data of the shapes that the features are made for

pytestmark = pytest.mark.parametrize("option", OPTIONS)


def test_real_data_are_better_than_negated_ones_or_nothing_is_measured(compose, option, tmp_path):
    overrides = f"metrics={option}", f"paths.output_dir={tmp_path}"
    if not compose(*overrides).metrics:
        assert build_metrics(compose(*overrides)) is None
        return
    metrics = build(compose(*overrides), "metrics")
    data = DATA[metrics.shape]()
    x = data.split("all")["x"][: metrics.num_samples]
    real, worse = metrics(x, data), metrics(-x, data)
    assert len(x) == metrics.num_samples
    assert not metrics.warnings()
    (distance,) = DISTANCES.keys() & real.keys()
    assert real[distance] < worse[distance] / 10
    assert real["kid"] < worse["kid"] / 10
    assert real["copy_ratio"] < worse["copy_ratio"]
    assert list(tmp_path.rglob("features-*.pt"))  # features are cached in paths.output_dir
