"""Drawing samples from a model in batches, with progress: all of them at once, or each batch for a use of its own."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Generic, NamedTuple

import torch
from torch import Tensor

from diffsweep.datasets import Batch, ImageData, rows_of
from diffsweep.diffusion import Condition, Denoised, Noise, counting
from diffsweep.layers import Overlap, evaluating, release, trim
from diffsweep.layers.distributed import share_of
from diffsweep.layers.transfer import Used
from diffsweep.models import DiffusionModel
from diffsweep.progress import ProgressMeter
from diffsweep.samplers import Callback, tested_later

TRIMMED = 8  # batches after which memory that they have freed is given back
Make = Callable[[Tensor, Condition | None, Callback], Tensor]
Use = Callable[[Tensor, Tensor, Batch], Used]


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


class UsedSamples(NamedTuple, Generic[Used]):
    """What was made of samples, batch by batch, and what drawing them has cost.

    Attributes:
        parts: the results of the use of each batch, in their order.
        seconds: the time that drawing took, without the use.
        evaluations: the number of network evaluations for each sample, on average.
        partial: the number of these evaluations, on average, that computed a part of the network alone.
    """

    parts: list[Used]
    seconds: float
    evaluations: float
    partial: float


def draw_for(
    model: DiffusionModel, num_samples: int, seed: int, batch_size: int, use: Use[Used], data: ImageData | None = None
) -> UsedSamples[Used]:
    """Draw samples in batches, use each batch and drop it, so that memory does not grow with their number.

    Sample i has the same noise and condition for any batch size. Of several processes each draws its share of the
    batches (:func:`~diffsweep.layers.distributed.share_of`).

    Args:
        model: a model with its sampler and guidance.
        num_samples: the number of samples.
        seed: the seed of their noise.
        batch_size: the number of samples that are drawn at once.
        use: a function ``use(indices, x, request)`` of a batch: the numbers of its samples, int64, (B,); the samples,
            on the CPU, of which it keeps a copy at most; and what they were to show, a batch without ``x``.
        data: the data of the model, for a model that takes what it is to show from held-out samples, such as captions.
    """
    batches, samples = torch.arange(num_samples).split(batch_size), None if data is None else data.deferred("val")

    def make(rows: Tensor, cond: Condition | None, callback: Callback) -> Tensor:
        return model.sample_from(*model.start(rows, seed), cond, callback=callback)

    return used_in_batches(model, share_of(batches), make, lambda rows: model.request_for(rows, samples), use)


def draw(model: DiffusionModel, num_samples: int, seed: int, batch_size: int, data: ImageData | None = None) -> Drawn:
    """Return samples that are drawn in batches; sample i has the same noise and condition for any batch size.

    Args:
        model, num_samples, seed, batch_size, data: as those of :func:`draw_for`.
    """
    request = model.request_for(torch.arange(num_samples), None if data is None else data.deferred("val"))
    return drawn_in_batches(model, num_samples, batch_size, partial(model.start, seed=seed), request)


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


def drawn_by_trajectories(
    model: DiffusionModel, count: int, batch_size: int, make: Make, request: Batch, steps: int | None = None
) -> Drawn:
    """Return samples, each drawn by one or several runs of the sampler, in batches, and show the progress.

    Args:
        model: a model with its sampler and guidance.
        count: the number of samples.
        batch_size: the number of samples that are drawn at once.
        make, steps: as those of :func:`used_in_batches`.
        request: what all samples are to show, a batch without ``x`` of ``count`` rows.
    """

    def keep(rows: Tensor, x: Tensor, request: Batch) -> Tensor:
        return x.clone() if x.is_pinned() else x  # pinned memory is scarce

    batches = torch.arange(count).split(batch_size)
    used = used_in_batches(model, batches, make, lambda rows: rows_of(request, rows), keep, steps)
    x = torch.cat(used.parts) if used.parts else torch.empty(0)
    return Drawn(x, used.seconds, used.evaluations, request, used.partial)


def used_in_batches(
    model: DiffusionModel,
    batches: Sequence[Tensor],
    make: Make,
    request_for: Callable[[Tensor], Batch],
    use: Use[Used],
    steps: int | None = None,
) -> UsedSamples[Used]:
    """Draw samples in batches, use each batch on the CPU while a GPU draws the next one, and show the progress.

    A batch that the device has no memory for is drawn in halves: see :class:`Halves`.

    Args:
        model: a model with its sampler and guidance.
        batches: the numbers of the samples of each batch, int64, (B,).
        make: a function ``make(rows, cond, callback)`` that returns the samples of a batch in pixels, given their
            numbers and their condition; it passes ``callback`` to the sampler, which calls it after each step.
        request_for: returns what the samples of given numbers are to show, a batch without ``x``.
        use: a function ``use(rows, x, request)`` of a batch: see :func:`draw_for`.
        steps: the number of the sampler's steps for a batch, in all its runs; None for one run without a measurement.

    Raises:
        NotFinite: a batch contains a NaN or an infinity.
    """
    steps = steps_taken(model) if steps is None else steps
    total, overlap, halves = len(batches) * steps, Overlap(model.device), Halves()
    with (
        evaluating(model),
        ProgressMeter("sampling", total) as progress,
        ExitStack() as stack,
    ):
        counts = [stack.enter_context(counting(denoiser)) for denoiser in model.denoisers]

        def advance(step: int, t: Tensor, denoised: Denoised, x: Tensor) -> None:
            if progress.count < total:  # batches in halves take more steps
                progress.update()

        def draw(rows: Tensor, request: Batch) -> Tensor:
            return make(rows, model.condition_of(request), advance)

        def begin(rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Used]]:
            request = request_for(rows)
            with tested_later() as watches:
                x = halves(rows, lambda some: draw(some, request if some is rows else request_for(some)))

            def end(x: Tensor) -> Used:
                for watch in watches:
                    watch.finish()
                return use(rows, x, request)

            return x, end

        parts: list[Used] = []
        for part in overlap(map(begin, batches)):
            parts.append(part)
            if len(parts) % TRIMMED == 0:
                trim()
        trim()
    count = max(1, sum(map(len, batches)))
    rows, partly = (sum(getattr(each, name) for each in counts) / count for name in ("rows", "partial"))
    return UsedSamples(parts, overlap.seconds, rows, partly)


class Halves:
    """Draw batches, those that the device has no memory for in halves, or in halves of these, and so all that follow.

    The samples are the same, since their noise is keyed by their numbers; one line is printed.
    """

    def __init__(self) -> None:
        self._most: int | None = None

    def __call__(self, rows: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the samples of a batch.

        Args:
            rows: their numbers, int64, (B,).
            draw: returns the samples of given numbers.

        Raises:
            torch.OutOfMemoryError: the device has no memory for a single sample.
        """
        size = min(self._most or len(rows), len(rows))
        while True:
            try:
                parts = [draw(rows)] if size == len(rows) else [draw(some) for some in rows.split(size)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            # Outside of the except clause, whose traceback holds all memory.
            release()
            print(
                f"out of memory on the device with {size} samples at once; goes on with {(size + 1) // 2}, which draws "
                "the same samples",
                file=sys.stderr,
                flush=True,
            )
            size = self._most = (size + 1) // 2


def steps_taken(model: DiffusionModel, measured: bool = False) -> int:
    """Return the number of steps down in t of one call of a model's sampler, each a call of its callback.

    It is ``sampler.steps``, and more where guidance repeats parts of the way.

    Args:
        model: a model with its sampler and guidance.
        measured: whether a measurement of the samples is known, ``cond.known``.
    """
    return sum(not move.up for move in model.sampler.moves(model.guided(model.sampler), measured))
