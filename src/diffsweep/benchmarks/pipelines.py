"""Sampling beside diffusers' pipeline of the same network, weights and solver."""

import time
from typing import Any

import torch

from diffsweep.benchmarks.base import Bench, Results, compare, part, synchronize
from diffsweep.configuration.build import build_diffusion, device_of
from diffsweep.interchange.diffusers_folder import pipeline_of
from diffsweep.interchange.formats import package
from diffsweep.progress import tracked


@part
@torch.no_grad()
def pipelines(bench: Bench) -> Results:
    """Return, by a label, the ratio of the time of drawing samples to that of diffusers' pipeline for the same samples.

    This is the part ``pipelines`` of ``benchmark.py``. The pipeline is the one that ``export.py`` writes of the model:
    the same network and weights, and the scheduler that takes the steps of the chosen sampler. Both give float images.

    Raises:
        UserError: diffusers is not installed, or has no such network or solver.
    """
    cfg = bench.cfg
    package("diffusers", user="parts=[pipelines]")
    model = build_diffusion(cfg).eval()
    theirs = pipeline_of(model)  # on the CPU, where it compares the networks
    model.to(device_of(cfg))
    pipe = theirs.pipeline.to(device_of(cfg))
    pipe.set_progress_bar_config(disable=True)
    indices = torch.arange(cfg.sample_batch)
    count: dict[str, Any] = {"batch_size": cfg.sample_batch}
    if theirs.classes:
        count = {"class_labels": [index % theirs.classes for index in range(cfg.sample_batch)]}

    def seconds(ours: bool) -> float:
        synchronize()
        begin = time.perf_counter()
        if ours:
            model.sample(indices, seed=0)
        else:
            pipe(**count, **theirs.call, output_type="np")
        synchronize()
        return time.perf_counter() - begin

    seconds(True), seconds(False)
    pairs = [(seconds(True), seconds(False)) for _ in tracked(range(cfg.repeats), "pipelines", "repeat")]
    label = f"{cfg.choices.sampler} in {model.sampler.steps} steps, against diffusers' {type(pipe).__name__}"
    return {label: compare([a for a, _ in pairs], [b for _, b in pairs])}
