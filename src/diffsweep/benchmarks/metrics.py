"""Benchmarks of metrics: the features of images from a dataset, beside the network of features alone."""

import math
import time
from typing import Any

import torch

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.benchmarks.inception import RandomInception
from diffsweep.configuration.build import build_data, build_metrics
from diffsweep.errors import UserError
from diffsweep.metrics.extraction import Extraction, Prepared
from diffsweep.metrics.frechet import moments
from diffsweep.metrics.inception import Inception
from diffsweep.progress import tracked


@part
@torch.no_grad()
def metrics(bench: Bench) -> Results:
    """Return the ratio of the time of the features of images, with all around them, to that of their network alone.

    This is the part ``metrics`` of ``benchmark.py``, for the features that the group ``metrics`` chooses. Around the
    network are reading ``metrics.num_samples`` images of the training data, rounding and resizing them, joining the
    features, and their mean and covariance. Alone, the network gets one prepared batch as often.

    Raises:
        UserError: no metrics are chosen.
    """
    cfg = bench.cfg
    measured = build_metrics(cfg)
    if measured is None:
        raise UserError("parts=[metrics] measures the features of metrics; choose metrics=digits or inception")
    return _beside_their_network(bench, measured, measured.num_samples)


@part
@torch.no_grad()
def inception(bench: Bench) -> Results:
    """Return the ratio of :func:`metrics` for the layers of Inception-v3 with random weights, so no file is needed.

    This is the part ``inception`` of ``benchmark.py``. It measures ``sample_batch`` images of the training data, at
    most 16 at once.
    """
    cfg = bench.cfg
    device = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    def random() -> Inception:
        with torch.random.fork_rng(devices=[]):
            return Inception(RandomInception().to(device).eval().requires_grad_(False), "random weights", device)

    extraction = Extraction(random, min(16, cfg.sample_batch), cfg.paths.cache_dir)
    return _beside_their_network(bench, extraction, cfg.sample_batch)


def _beside_their_network(bench: Bench, measured: Extraction[Any], images: int) -> Results:
    """Return the ratio for a number of images of the training data, which are repeated if they are fewer."""
    cfg = bench.cfg
    samples, size = build_data(cfg).split("train"), measured.batch_size
    index = torch.arange(images) % len(samples)
    features, count = measured.features, math.ceil(len(index) / size)
    first = samples[index[:size]]["x"]
    network, batch = (features.encode, features.prepare(first)) if isinstance(features, Prepared) else (features, first)
    ours, bare = [], []
    for repeat in tracked(range(cfg.repeats + 1), "metrics", "repeat"):
        begin = _now()
        found = measured.extract_batches((samples[rows]["x"] for rows in index.split(size)), count)
        moments(found.features)
        middle = _now()
        for rows in index.split(size):
            network(batch[: len(rows)])
        end = _now()
        if repeat > 0:  # the first one warms up
            ours.append(middle - begin)
            bare.append(end - middle)
    return {f"{features.name}: features of {len(index):,} images, against their network": compare(ours, bare)}


def _now() -> float:
    synchronize()
    return time.perf_counter()
