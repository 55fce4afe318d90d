"""Drawing samples from a model in batches, with progress."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import Batch, ImageData, rows_of
from diffsweep.diffusion import Condition, Denoised, Noise, counting
from diffsweep.layers import evaluating
from diffsweep.layers.distributed import distributed, gathered, is_first, share_of
from diffsweep.metrics import GenerationMetrics
from diffsweep.models import DiffusionModel
from diffsweep.progress import ProgressMeter
from diffsweep.samplers import Callback


class Job(NamedTuple):
    """The job that ``sample.py`` gives to a task: a model, its data, and the number of samples to draw.

    Attributes:
        model: a trained model with its sampler and guidance.
        data: the data that the model was trained on.
        folder: the folder into which the task writes its pictures.
        num_samples: the number of samples to draw.
        seed: the seed of the samples' noise.
        batch_size: the number of samples that are drawn at once; it does not change them.
        pages: the most pictures of one kind, each with as many samples as fit; None for as many as show all samples.
        metrics: a function that returns the metrics of the model's configuration, or None for ``metrics=none``.
    """

    model: DiffusionModel
    data: ImageData
    folder: Path
    num_samples: int
    seed: int
    batch_size: int
    pages: int | None = None
    metrics: Callable[[], GenerationMetrics | None] = lambda: None

    def request(self, indices: Tensor, source: str | None = None) -> Batch:
        """Return the request for samples: a batch without ``x`` that states what they are to show, such as classes.

        Args:
            indices: the numbers of the samples, (N,); the request for a sample depends on its number alone.
            source: for ``data``, the labels or captions of the held-out samples of these numbers take the place of
                those that the model's conditioning requests by itself.

        Returns:
            Values of N rows by name; an empty batch for a model without conditions.
        """
        samples = self.data.deferred("val")
        request = self.model.request_for(indices, samples)
        if source == "data":
            request |= {name: part for name, part in samples[indices].items() if name in request}
        return request

    def draw(self, count: int, start: Callable[[Tensor], tuple[Tensor, Noise]], request: Batch) -> "Drawn":
        """Return ``count`` samples that the job's model draws in batches: see :func:`drawn_in_batches`."""
        return drawn_in_batches(self.model, count, self.batch_size, start, request)

    def draw_from(self, x: Tensor, request: Batch) -> "Drawn":
        """Return the N samples to which the sampler takes given states ``x``, with the conditions of ``request``.

        Args:
            x: states at t = ``sampler.start`` in the space that the model diffuses in, (N, ...).
            request: the request for the N samples: see :meth:`request`.
        """
        return self.draw(len(x), lambda rows: (x[rows], self.model.noise_of(rows, self.seed)), request)


class Drawn(NamedTuple):
    """Samples, what they cost, and what was requested of them.

    Attributes:
        x: images (N, C, H, W) or clips (N, C, F, H, W), in [-1, 1] on the CPU.
        seconds: the time that drawing all of them took.
        evaluations: the number of network evaluations for each sample, on average.
        request: what the samples were to show, such as their classes: a batch without ``x``; empty for a model without
            conditions.
        partial: the number of these evaluations, on average, that computed a part of the network alone.
    """

    x: Tensor
    seconds: float
    evaluations: float
    request: Batch
    partial: float = 0.0


def draw(model: DiffusionModel, num_samples: int, seed: int, batch_size: int, data: ImageData | None = None) -> Drawn:
    """Return samples that are drawn in batches; sample i has the same noise and condition for any batch size.

    Of several processes each draws its share of the batches (:func:`~diffsweep.layers.distributed.share_of`) and
    returns that alone, with the request for it; :func:`joined` gives the first process all.

    Args:
        model: a model with its sampler and guidance.
        num_samples: the number of samples.
        seed: the seed of their noise.
        batch_size: the number of samples that are drawn at once.
        data: the data of the model, for a model that takes what it is to show from held-out samples, such as captions.
    """
    own = torch.cat([torch.arange(0), *share_of(torch.arange(num_samples).split(batch_size))])
    request = model.request_for(own, None if data is None else data.deferred("val"))
    return drawn_in_batches(model, len(own), batch_size, lambda rows: model.start(own[rows], seed), request)


def joined(drawn: Drawn, num_samples: int, batch_size: int, model: DiffusionModel, data: ImageData) -> Drawn:
    """Return the samples that all processes have drawn by :func:`draw`, in order, on the first process.

    All processes must call it; the others keep their own samples. A process that is alone has them all.

    Args:
        drawn: what this process has drawn.
        num_samples, batch_size, model, data: the arguments of :func:`draw`.
    """
    if not distributed():
        return drawn
    begin = time.perf_counter()
    parts = gathered(drawn.x.split(batch_size) if len(drawn.x) else [])
    if not is_first():
        return drawn
    request = model.request_for(torch.arange(num_samples), data.deferred("val"))
    seconds = drawn.seconds + time.perf_counter() - begin
    return Drawn(torch.cat(parts), seconds, drawn.evaluations, request, drawn.partial)


def drawn_in_batches(
    model: DiffusionModel,
    count: int,
    batch_size: int,
    start: Callable[[Tensor], tuple[Tensor, Noise]],
    request: Batch,
) -> Drawn:
    """Return samples, each drawn by one run of the sampler, in batches, and show the progress.

    Args:
        model: a model with its sampler and guidance.
        count: the number of samples.
        batch_size: the number of samples that are drawn at once.
        start: a function of the numbers of a batch's samples, int64, (B,), that returns the states from which the
            sampler starts, (B, ...) in the space that the model diffuses in, and the noise of its steps.
        request: what all samples are to show, a batch without ``x`` of ``count`` rows: see
            :meth:`~diffsweep.conditioning.Conditioning.request`.
    """

    def sample(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
        return model.sample_from(*start(rows), cond, callback=callback)

    return drawn_by_trajectories(model, count, batch_size, sample, request)


def steps_taken(model: DiffusionModel, measured: bool = False) -> int:
    """Return the number of steps down in t of one call of a model's sampler, each a call of its callback.

    It is ``sampler.steps``, and more where guidance repeats parts of the way.

    Args:
        model: a model with its sampler and guidance.
        measured: whether a measurement of the samples is known, ``cond.known``.
    """
    return sum(not move.up for move in model.sampler.moves(model.guided(model.sampler), measured))


def drawn_by_trajectories(
    model: DiffusionModel,
    count: int,
    batch_size: int,
    make: Callable[[Tensor, Condition | None, Callback], Tensor],
    request: Batch,
    steps: int | None = None,
) -> Drawn:
    """Return samples, each drawn by one or several runs of the sampler, in batches, and show the progress.

    Args:
        model: a model with its sampler and guidance.
        count: the number of samples.
        batch_size: the number of samples that are drawn at once.
        make: a function ``make(rows, cond, callback)`` that returns the samples of a batch in pixels, given their
            numbers, int64, (B,), and their condition; it passes ``callback`` to the sampler, which calls it after each
            step.
        request: what all samples are to show, a batch without ``x`` of ``count`` rows.
        steps: the number of the sampler's steps for a batch, in all its runs; None for one run without a measurement.
    """
    steps = steps_taken(model) if steps is None else steps
    batches = torch.arange(count).split(batch_size)
    begin = time.perf_counter()
    with (
        evaluating(model),
        ProgressMeter("sampling", len(batches) * steps) as progress,
        ExitStack() as stack,
    ):
        counts = [stack.enter_context(counting(denoiser)) for denoiser in model.denoisers]

        def advance(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
            progress.update()

        parts = [make(rows, model.condition_of(rows_of(request, rows)), advance).cpu() for rows in batches]
    x = torch.cat(parts) if parts else torch.empty(0)
    seconds = time.perf_counter() - begin
    rows, partial = (sum(getattr(each, name) for each in counts) / max(count, 1) for name in ("rows", "partial"))
    return Drawn(x, seconds, rows, request, partial)


def trajectory(
    model: DiffusionModel,
    data: ImageData,
    path: Path,
    seed: int | Tensor,
    indices: Tensor | None = None,
    frames: int = 40,
) -> None:
    """Write a GIF of samples as they form from t = 1 to 0: x_t on the left, the predicted x_0 on the right.

    Each frame has its time, and each sample its class or caption. Of clips it shows the first frames.

    Args:
        model: a model with its sampler and guidance.
        data: the data of the model, from whose held-out samples conditions can come.
        path: the path of the GIF.
        seed: the seed of the noise, one for all samples or one for each, (N,).
        indices: the numbers of the samples, int64, (N,); None for the first sixteen.
        frames: about the number of frames of the GIF; it has at most one for each step.
    """
    indices = indices if indices is not None else torch.arange(16)
    request, cond = model.request(indices, data.deferred("val"))
    animate(model, model.start(indices, seed), cond, path, model.conditioning.described(request), frames)


def animate(
    model: DiffusionModel,
    start: tuple[Tensor, Noise],
    cond: Condition | None,
    path: Path,
    labels: Sequence[str] = (),
    frames: int = 40,
) -> None:
    """Write a GIF of samples as they form from given states: x_t on the left, the predicted x_0 on the right.

    Where guidance goes back in t, the times of the frames do so too.

    Args:
        model: a model with its sampler and guidance.
        start: the states from which the sampler starts, (N, ...) in the space of diffusion, and their noise.
        cond: the condition of each sample.
        path: the path of the GIF.
        labels: a text for each sample, such as its class; empty for none.
        frames: about the number of frames of the GIF; it has at most one for each step.
    """
    kept: list[tuple[float, Tensor, Tensor]] = []
    steps = steps_taken(model, measured=cond is not None and cond.known is not None)
    every = max(1, steps // frames)

    def keep(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
        if step % every == 0 or step == steps - 1:
            x_t, x_0 = (model.autoencoder.decode(part).cpu() for part in (x, denoised.x0))
            kept.append((float(t), x_t, x_0))

    with evaluating(model):
        model.sample_from(*start, cond, callback=keep)
    frames_of_gif = []
    for t, x_t, x_0 in kept:
        if x_t.ndim > 4:
            x_t, x_0 = x_t[:, :, 0], x_0[:, :, 0]  # the first frame of each clip
        left = pictures.grid(x_t.clamp(-2, 2) / 2, labels=labels, title=f"x after the step from t = {t:.3f}")
        right = pictures.grid(x_0, labels=labels, title=f"estimate of x_0 at t = {t:.3f}")
        frames_of_gif.append(pictures.beside(left, right))
    pictures.save_gif(frames_of_gif, path)
