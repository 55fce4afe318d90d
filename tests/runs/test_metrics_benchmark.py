"""The part ``metrics`` of the benchmark: features of images beside their network alone."""

import json
from pathlib import Path

from scripts import SmallInception, write_script

from diffsweep.configuration.compose import compose
from diffsweep.runs.benchmarking import benchmark


def test_the_part_metrics_times_features_beside_their_network(tmp_path):
    """For features that prepare images and for others; the ratio is positive and the label counts the images."""
    file = write_script(tmp_path / "inception.pt", SmallInception())
    inception = [f"metrics.features.path={file}", "trust=[torchscript]", "metrics.batch_size=4"]
    shapes = ["dataset=shapes", "dataset.image_size=16", "dataset.num_train=8", "dataset.num_val=4"]
    for name, words in (("digits", []), ("inception", [*inception, *shapes])):
        common = ["parts=[metrics]", "repeats=3", "metrics.num_samples=6", "trainer=cpu", f"output={tmp_path / name}"]
        ratio = benchmark(compose("benchmark", [f"metrics={name}", *words, *common]))
        ((label, found),) = json.loads(Path(tmp_path / name / "benchmark.json").read_text())["results"].items()
        assert "features of 6 images" in label
        assert 0 < found["low"] <= ratio <= found["high"]
