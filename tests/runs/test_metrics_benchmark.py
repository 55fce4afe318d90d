"""The part ``metrics`` of the benchmark: features of images beside their network alone."""

import json
from pathlib import Path

import pytest
import torch
from scripts import SmallInception, write_script
from torch.utils.flop_counter import FlopCounterMode

from diffsweep.benchmarks.inception import RandomInception
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


@torch.no_grad()
def test_the_random_inception_has_the_published_layers():
    """Of torchvision's Inception-v3 are the 5.71 billion multiplications at 299 pixels; the weights are 23.85 million.

    Those are of 1,000 classes and an auxiliary classifier less: 21.79 million are in the layers before the last.
    """
    with torch.device("meta"):
        network = RandomInception().eval()
        with FlopCounterMode(display=False) as counter:
            shape = network(torch.empty(1, 3, 299, 299), return_features=True).shape
    assert shape == (1, 2048)
    assert counter.get_total_flops() / 2 == pytest.approx(5.71e9, rel=1e-3)
    assert sum(weight.numel() for weight in network.layers.parameters()) == 21_785_568


@pytest.mark.slow
def test_the_part_inception_requires_no_file(tmp_path):
    words = ["parts=[inception]", "repeats=3", "sample_batch=2", "trainer=cpu", f"output={tmp_path}"]
    benchmark(compose("benchmark", words))
    ((label, found),) = json.loads((tmp_path / "benchmark.json").read_text())["results"].items()
    assert "features of 2 images" in label
    assert 0.8 < found["ratio"] < 2
