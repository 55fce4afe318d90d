"""Inversion: the noise from which a deterministic sampler draws given images."""

import torch
from torch import Tensor

from diffsweep.datasets import Batch, rows_of
from diffsweep.samplers import Sampler
from diffsweep.tasks.sampling import Job


def not_invertible_because(sampler: Sampler) -> str | None:
    """Return a sentence why a sampler cannot be inverted; None if it can."""
    return (
        None if sampler.invertible else "only deterministic DDIM can be inverted; use sampler=ddim with sampler.eta=0"
    )


def inverted(job: Job, images: Tensor, request: Batch) -> Tensor:
    """Return the noises from which the model's sampler draws given images, each under its condition.

    Args:
        job: with the model.
        images: (N, C, H, W) or (N, C, F, H, W), in [-1, 1].
        request: the conditions of the images.

    Returns:
        Noises in the model's space, (N, ...), on the CPU.
    """
    batches = torch.arange(len(images)).split(job.batch_size)
    return torch.cat(
        [job.model.invert(images[rows], job.model.condition_of(rows_of(request, rows))).cpu() for rows in batches]
    )
