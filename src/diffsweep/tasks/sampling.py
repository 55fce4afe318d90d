"""Drawing samples from a model in batches, with progress."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import Batch, ImageData, rows_of
from diffsweep.diffusion import Condition, Denoised, Noise, counting
from diffsweep.layers import evaluating
from diffsweep.models import DiffusionModel
from diffsweep.progress import ProgressMeter
from diffsweep.samplers import Callback


class Job(NamedTuple):
    """The job of a task: a model, its data, and the number of samples to draw.

    Attributes:
        model: a trained model with its sampler.
        data: the data that it was trained on.
        folder: of the pictures.
        num_samples: number of samples.
        seed: keys their noise.
        batch_size: samples that are drawn at once.
    """

    model: DiffusionModel
    data: ImageData
    folder: Path
    num_samples: int
    seed: int
    batch_size: int

    def request(self, indices: Tensor, source: str | None = None) -> Batch:
        """Return the request of the samples of given indices.

        Args:
            indices: of the samples, (N,).
            source: with ``data`` the request has the annotations of the held-out samples of these indices.
        """
        samples = self.data.split("val")
        request = self.model.conditioning.request(indices, samples)
        if source == "data":
            request |= {name: part for name, part in samples[indices].items() if name in request}
        return request

    def draw(self, count: int, start: Callable[[Tensor], tuple[Tensor, Noise]], request: Batch) -> "Drawn":
        """Return samples that the model's sampler draws: see :func:`drawn_in_batches`."""
        return drawn_in_batches(self.model, count, self.batch_size, start, request)

    def draw_from(self, x: Tensor, request: Batch) -> "Drawn":
        """Return samples that the sampler draws from given starts x (N, ...) in the model's space."""
        return self.draw(len(x), lambda rows: (x[rows], self.model.noise_of(rows, self.seed)), request)


class Drawn(NamedTuple):
    """Samples and the cost of drawing them.

    Attributes:
        x: samples (N, C, H, W), clips (N, C, F, H, W), in [-1, 1] on the CPU.
        seconds: for all of them.
        evaluations: of the network, for each sample.
        request: their conditions as a batch without ``x``; empty if they have none.
    """

    x: Tensor
    seconds: float
    evaluations: float
    request: Batch


def draw(model: DiffusionModel, num_samples: int, seed: int, batch_size: int, data: ImageData | None = None) -> Drawn:
    """Return samples that are drawn in batches; sample i has the same noise and condition for any batch size.

    Args:
        model: with its sampler.
        num_samples: number of samples.
        seed: keys their noise.
        batch_size: samples that are drawn at once.
        data: needed if the conditions are those of held-out data.
    """
    indices = torch.arange(num_samples)
    request = model.conditioning.request(indices, None if data is None else data.split("val"))
    return drawn_in_batches(model, num_samples, batch_size, lambda rows: model.start(indices[rows], seed), request)


def drawn_in_batches(
    model: DiffusionModel,
    count: int,
    batch_size: int,
    start: Callable[[Tensor], tuple[Tensor, Noise]],
    request: Batch,
) -> Drawn:
    """Return samples of one trajectory each, drawn in batches, with progress.

    Args:
        model: with its sampler.
        count: number of samples.
        batch_size: samples that are drawn at once.
        start: returns for given rows the x that the sampler starts from, and their noise.
        request: of all samples, see :meth:`~diffsweep.conditioning.Conditioning.request`.
    """

    def sample(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
        return model.sample_from(*start(rows), cond, callback=callback)

    return drawn_by_trajectories(model, count, batch_size, sample, request)


def drawn_by_trajectories(
    model: DiffusionModel,
    count: int,
    batch_size: int,
    make: Callable[[Tensor, Condition | None, Callback], Tensor],
    request: Batch,
    trajectories: int = 1,
) -> Drawn:
    """Return samples of one or several trajectories each, drawn in batches, with progress over all their steps.

    Args:
        model: as in :func:`drawn_in_batches`, like ``count``, ``batch_size`` and ``request``.
        count: number of samples.
        batch_size: samples that are drawn at once.
        make: returns the samples of given rows under their condition, and calls back after each step of the sampler.
        request: of all samples.
        trajectories: number of trajectories of a batch.
    """
    batches = torch.arange(count).split(batch_size)
    begin = time.perf_counter()
    with (
        evaluating(model),
        ProgressMeter("sampling", len(batches) * trajectories * model.sampler.steps) as progress,
        counting(model.denoiser) as evaluations,
    ):

        def advance(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
            progress.update()

        parts = [make(rows, model.condition_of(rows_of(request, rows)), advance).cpu() for rows in batches]
    return Drawn(torch.cat(parts), time.perf_counter() - begin, evaluations.rows / count, request)


def trajectory(
    model: DiffusionModel,
    data: ImageData,
    path: Path,
    seed: int | Tensor,
    indices: Tensor | None = None,
    frames: int = 40,
) -> None:
    """Write a GIF of samples as they form from t = 1 to 0: x_t on the left, the predicted x_0 on the right.

    Args:
        model: with its sampler.
        data: of the model.
        path: of the GIF.
        seed: keys the noise.
        indices: of the samples; None for the first sixteen.
        frames: about the number of frames, at most one a step.
    """
    indices = indices if indices is not None else torch.arange(16)
    _, cond = model.request(indices, data.split("val"))
    kept: list[Tensor] = []
    every = max(1, model.sampler.steps // frames)

    def keep(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
        if step % every == 0 or step == model.sampler.steps - 1:
            kept.append(torch.stack([model.autoencoder.decode(part).cpu() for part in (x, denoised.x0)]))

    with evaluating(model):
        model.sample_from(*model.start(indices, seed), cond, callback=keep)
    if kept[0].ndim > 5:
        kept = [each[:, :, :, 0] for each in kept]  # the first frame of each clip
    side = [pictures.beside(pictures.grid(x_t.clamp(-2, 2) / 2), pictures.grid(x_0)) for x_t, x_0 in kept]
    pictures.save_gif(side, path)
