"""Inversion: the noise from which a deterministic sampler draws given images."""

import torch
from torch import Tensor

from diffsweep.datasets import Batch, rows_of
from diffsweep.samplers import Sampler
from diffsweep.tasks.sampling import Job


def not_invertible_because(sampler: Sampler) -> str | None:
    """Return a sentence why a sampler cannot be run from images back to noise, and what to use; None if it can."""
    return (
        None if sampler.invertible else "only deterministic DDIM can be inverted; use sampler=ddim with sampler.eta=0"
    )


def inverted(job: Job, images: Tensor, request: Batch) -> Tensor:
    """Return the noises from which the model's sampler draws the given images, each under its condition.

    Args:
        job: the job of a task: its model and sampler are used, and ``batch_size`` images are inverted at once.
        images: images (N, C, H, W) or clips (N, C, F, H, W), in [-1, 1].
        request: a batch without ``x`` of N rows, such as class labels, from which the conditions of the images follow.

    Returns:
        The states at t = ``sampler.start`` in the space that the model diffuses in, (N, ...), on the CPU.

    Raises:
        ValueError: the sampler is not invertible: see :func:`not_invertible_because`.
    """
    batches = torch.arange(len(images)).split(job.batch_size)
    return torch.cat(
        [job.model.invert(images[rows], job.model.condition_of(rows_of(request, rows))).cpu() for rows in batches]
    )
