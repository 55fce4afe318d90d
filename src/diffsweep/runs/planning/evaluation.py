"""How long the measurement at the end of a run takes: its parts are timed on a batch, a few steps or a few calls."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import pictures
from diffsweep.benchmarks.base import synchronize
from diffsweep.configuration.build import build_likelihood, build_metrics
from diffsweep.datasets import Batch, ImageData, rows_of
from diffsweep.diffusion import straightness
from diffsweep.layers import evaluating
from diffsweep.metrics import GenerationMetrics, Likelihood
from diffsweep.metrics.copies import searched
from diffsweep.metrics.extraction import Features
from diffsweep.models import DiffusionModel, Model
from diffsweep.runs.evaluation import PATHS, STEPS_OF_A_PATH
from diffsweep.runs.evaluation import SHOWN as SHOWN_OF_ALL
from diffsweep.runs.planning.sharing import first_share
from diffsweep.tasks.drawing import Drawn, steps_taken
from diffsweep.tasks.showing import show_first

STEPS = 6  # of the sampler, of which all but the first are timed
CALLS = 4  # of the network in a likelihood, of which all but the first are timed
SHOWN, FRAMES = 16, 40  # samples and frames of the picture of trajectories
NUMBERS = 32_000_000  # of stand-ins of samples, at most
WIDE = 512  # features whose bootstrap takes long
SAMPLING, FEATURES, COMPARISON, PICTURES = "sampling", "features", "comparison", "final pictures"
LIKELIHOOD, STRAIGHTNESS = "likelihood", "straightness"


class _Enough(Exception):  # noqa: N818 - names an outcome
    """The outcome that enough steps were timed."""


class Clock:
    """A function that is called after each step of long work, and ends it by an error when enough are timed.

    Args:
        most: the steps.
    """

    def __init__(self, most: int) -> None:
        self.most, self.times = most, [time.perf_counter()]

    def __call__(self, *_: Any) -> None:
        synchronize()
        self.times.append(time.perf_counter())
        if len(self.times) > self.most:
            raise _Enough

    @property
    def step(self) -> float:
        """Return the mean seconds of a step after the first; of a single one its own."""
        first = self.times[1:] if len(self.times) > 2 else self.times
        return (first[-1] - first[0]) / max(1, len(first) - 1)

    @property
    def before(self) -> float:
        """Return the seconds before the first step, which is taken to be as long as the others."""
        return max(0.0, self.times[min(1, len(self.times) - 1)] - self.times[0] - self.step)


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the seconds that a piece of work takes, on the GPU too."""
    synchronize()
    begin = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - begin


class Trajectory(NamedTuple):
    """What drawing a batch of samples takes.

    Attributes:
        before: seconds before the sampler's first step, as of a lower stage of a cascade.
        step: seconds of a step.
        after: seconds in which the batch is decoded.
        steps: the steps of the sampler.
    """

    before: float
    step: float
    after: float
    steps: int

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole batch."""
        return self.before + self.steps * self.step + self.after


@torch.no_grad()
def timed_trajectory(model: DiffusionModel, data: ImageData, rows: int, seed: int = 0) -> Trajectory:
    """Take the first steps of the sampler for a batch of samples, and return how long the whole way takes.

    Args:
        model: the model, on its device.
        data: its data, of which conditions may come.
        rows: the samples of the batch.
        seed: of their noise.
    """
    indices, clock = torch.arange(rows), Clock(STEPS)
    with evaluating(model):
        _, cond = model.request(indices, data.deferred("val"))
        x, noise = model.start(indices, seed)
        clock.times = [time.perf_counter()]
        with contextlib.suppress(_Enough):
            model.sample_from(x, noise, cond, callback=clock, decode=False)
        after = seconds_of(lambda: model.autoencoder.decode(x).cpu())
    return Trajectory(clock.before, clock.step, after, steps_taken(model))


def seconds_of_evaluation(
    cfg: DictConfig, model: Model, data: ImageData, scratch: Path, validation: float, processes: int = 1
) -> dict[str, float]:
    """Return the predicted seconds of the measurement at the end of a run, by part.

    Args:
        cfg: the run's configuration.
        model: the model, on its device.
        data: its data.
        scratch: a folder for pictures and features of stand-ins, which is deleted afterwards.
        validation: the seconds of a validation, which a model that draws no samples takes again.
        processes: which share samples and their features; the seconds are those of the first.
    """
    metrics, likelihood = build_metrics(cfg), build_likelihood(cfg)
    found: dict[str, float] = {}
    if not isinstance(model, DiffusionModel):
        rows = data.num_val
        found["held-out data"] = validation
        if metrics is not None:
            new = rows if metrics.is_kept(data, "val") else 2 * rows
            found[FEATURES] = new * _seconds_of_features(metrics, data)[0]
        return found
    if metrics is not None:
        found |= _of_samples(metrics, model, data, scratch, processes)
    if likelihood is not None and (seconds := _of_likelihood(likelihood, model, data)) is not None:
        found[LIKELIHOOD] = seconds
    return found


def _of_samples(
    metrics: GenerationMetrics, model: DiffusionModel, data: ImageData, scratch: Path, processes: int
) -> dict[str, float]:
    """Return the seconds in which samples are drawn, compared with data and shown."""
    count, rows = metrics.num_samples, min(metrics.num_samples, metrics.batch_size)
    few = min(count, max(SHOWN_OF_ALL, NUMBERS // math.prod(data.shape)))
    request = model.request_for(torch.arange(few), data.deferred("val"))
    of_batch = timed_trajectory(model, data, rows)
    found = {SAMPLING: of_batch.seconds * first_share(count, rows, processes) / rows}
    each, features = _seconds_of_features(metrics, data)
    new = [len(data.split(split)) for split in metrics.splits(request) if not metrics.is_kept(data, split)]
    found[FEATURES] = each * sum(first_share(some, metrics.batch_size, processes) for some in [count, *new])
    found[COMPARISON] = _of_comparison(metrics, features, data, request, few, scratch)
    if model.denoiser.schedule.straight:
        found[STRAIGHTNESS] = _of_straightness(metrics, model, data)
    first = torch.arange(min(count, SHOWN_OF_ALL))
    shown = Drawn(_random(len(first), data), 0.0, 0.0, rows_of(request, first))
    found[PICTURES] = seconds_of(lambda: show_first(model, shown, scratch / "final")) + _of_trajectories(
        model, data, scratch
    )
    return found


def _random(count: int, data: ImageData) -> Tensor:
    """Return stand-ins of samples, uniform in [-1, 1], (N, ...)."""
    return torch.rand(count, *data.shape) * 2 - 1


def _seconds_of_features(metrics: GenerationMetrics, data: ImageData) -> tuple[float, Features]:
    """Return the seconds in which the features of one sample are computed, and those of a batch of stand-ins."""
    x = _random(min(metrics.num_samples, metrics.batch_size), data)
    found = metrics.extract(x)  # reads the weights
    return seconds_of(lambda: metrics.extract(x)) / len(x), found


def _of_comparison(
    metrics: GenerationMetrics, features: Features, data: ImageData, request: Batch, count: int, scratch: Path
) -> float:
    """Return the seconds in which samples are compared with data, by ``count`` stand-ins and features of stand-ins."""

    def stand_in(count: int) -> Features:
        of_batch = features.rows(torch.arange(count) % len(features.features))
        noisy = of_batch.features + torch.randn_like(of_batch.features) * (of_batch.features.std() + 1e-3)
        return of_batch._replace(features=noisy)

    cache, metrics.cache_dir = metrics.cache_dir, scratch
    for split in metrics.splits(request):
        metrics.keep(data, split, stand_in(len(data.split(split))))
    x, fake, compared = _random(count, data), stand_in(count), metrics.comparison
    resamples = compared.resamples

    def compare() -> None:
        each = metrics.beside_features(x, request, torch.arange(count) < len(searched(count, data)), data)
        metrics.compare({"features": fake.by_name(), **each}, data)

    try:
        if features.features.shape[1] <= WIDE or resamples <= 4:
            return seconds_of(compare) * metrics.num_samples / count
        compared.resamples = 2
        two = seconds_of(compare)
        compared.resamples = 4
        each = max(0.0, seconds_of(compare) - two) / 2
        return two * metrics.num_samples / count + each * (resamples - 2)
    finally:
        compared.resamples, metrics.cache_dir = resamples, cache


def _of_straightness(metrics: GenerationMetrics, model: DiffusionModel, data: ImageData) -> float:
    """Return the seconds in which the straightness of paths is measured, by one step of some of them."""
    count = min(metrics.num_samples, PATHS)
    indices = torch.arange(min(count, metrics.batch_size))
    with torch.no_grad(), evaluating(model):
        denoiser = model.guided(model.sampler)
        x, noise = model.start(indices, 0)
        _, cond = model.request(indices, data.deferred("val"))
        whole = model.completed(cond, noise)
        step = seconds_of(lambda: straightness(denoiser, x, whole, 1))
    return step * STEPS_OF_A_PATH * count / len(indices)


def _of_trajectories(model: DiffusionModel, data: ImageData, scratch: Path) -> float:
    """Return the seconds in which a GIF of samples as they form is made, by some steps and one frame."""
    drawn, x = timed_trajectory(model, data, SHOWN), _random(SHOWN, data)
    x = x if x.ndim == 4 else x[:, :, 0]
    labels = model.conditioning.described(model.request_for(torch.arange(SHOWN), data.deferred("val")))

    def frame() -> None:
        left, right = (pictures.grid(x, labels=labels, title="x") for _ in range(2))
        pictures.save_gif([pictures.beside(left, right)], scratch / "trajectory.gif")

    frames = min(FRAMES, drawn.steps)
    return drawn.seconds + frames * (2 * drawn.after + seconds_of(frame))


def _of_likelihood(likelihood: Likelihood, model: DiffusionModel, data: ImageData) -> float | None:
    """Return the seconds in which a likelihood is measured, by some calls; None where their number is not known."""
    samples = data.split(likelihood.split)
    calls = likelihood.calls(model.denoiser.schedule, likelihood.count(samples))
    if calls is None:
        return None

    def encode(batch: Batch) -> Any:
        return model.autoencoder.encode(batch["x"].to(model.device)), model.condition_of(batch)

    clock = Clock(min(CALLS, calls))
    with evaluating(model), contextlib.suppress(_Enough):
        likelihood(model.denoiser, samples, encode, model.autoencoder.levels, clock)
    return calls * clock.step
