"""The noise whose walk ends at given images."""

import torch
from torch import Tensor

from diffsweep.datasets import Batch, rows_of
from diffsweep.samplers import Sampler
from diffsweep.tasks.sampling import Job


def not_invertible_because(sampler: Sampler) -> str | None:
    """Return a sentence why a sampler's walk has no inverse; None where it has."""
    return (
        None
        if sampler.invertible
        else "only DDIM's deterministic walk is inverted; use sampler=ddim with sampler.eta=0"
    )


def inverted(job: Job, images: Tensor, request: Batch) -> Tensor:
    """Return the noise of images under the model's sampler, in the space, on the CPU, each under its condition."""
    batches = torch.arange(len(images)).split(job.batch_size)
    return torch.cat(
        [job.model.invert(images[rows], job.model.condition_of(rows_of(request, rows))).cpu() for rows in batches]
    )
