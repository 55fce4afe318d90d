"""Drawing samples from a model in batches, with progress."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffsweep import pictures
from diffsweep.datasets import Batch, ImageData
from diffsweep.diffusion import Condition, Denoised, Noise
from diffsweep.layers import evaluating
from diffsweep.metrics import GenerationMetrics
from diffsweep.models import DiffusionModel
from diffsweep.tasks.drawing import Drawn, drawn_in_batches, steps_taken


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

    def draw(self, count: int, start: Callable[[Tensor], tuple[Tensor, Noise]], request: Batch) -> Drawn:
        """Return ``count`` samples that the job's model draws in batches: see :func:`drawn_in_batches`."""
        return drawn_in_batches(self.model, count, self.batch_size, start, request)

    def draw_from(self, x: Tensor, request: Batch) -> Drawn:
        """Return the N samples to which the sampler takes given states ``x``, with the conditions of ``request``.

        Args:
            x: states at t = ``sampler.start`` in the space that the model diffuses in, (N, ...).
            request: the request for the N samples: see :meth:`request`.
        """
        return self.draw(len(x), lambda rows: (x[rows], self.model.noise_of(rows, self.seed)), request)


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
