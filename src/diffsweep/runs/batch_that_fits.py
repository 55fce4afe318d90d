r"""How many samples are drawn at once where ``metrics.batch_size=auto``: as many as the device has memory for.

The most memory of a call of the guided network and of a decoding grows linearly with the batch,

.. math:: M(B) = M_0 + m B,

so that two small batches give the largest power of two that fits. Memory between the calls of a trajectory is small
beside it. Where the prediction is too large, the batch is halved: see :class:`~diffsweep.tasks.drawing.Halves`.
"""

import torch

from diffsweep.datasets import ImageData
from diffsweep.layers import evaluating
from diffsweep.layers.distributed import is_first, largest
from diffsweep.models import DiffusionModel
from diffsweep.runs.planning.memory import Peak, capacity_of, largest_within, line_through

SMALL = (4, 8)  # the batches that are measured
MOST = 1024  # larger batches are no faster
ON_CPU = 64  # whose speed falls with larger batches: their activations leave its caches
SHARE = 0.7  # of the memory that a batch may take: the rest is for the batch before it, whose features are computed


def batch_that_fits(model: DiffusionModel, data: ImageData, count: int) -> int:
    """Return how many samples a model draws at once, a power of two of at most 1024; on a CPU 64.

    All processes must call it; they get the smallest of their numbers, and the first one prints it.

    Args:
        model: the model, on its device, with its sampler and guidance.
        data: the data of the model, from whose held-out samples conditions can come.
        count: the number of samples that are to be drawn: a batch is at most the next power of two.
    """
    if model.device.type != "cuda":
        return ON_CPU
    most = min(MOST, 2 ** (count - 1).bit_length())
    size = -largest(-min(most, max(1, _largest_within_memory(model, data))))
    if is_first():
        print(f"draws {size} samples at once, as many as the memory holds (batch_size=auto)", flush=True)
    return size


def _largest_within_memory(model: DiffusionModel, data: ImageData) -> int:
    try:
        first, second = ((rows, memory_of_call(model, data, rows)) for rows in SMALL)
    except torch.OutOfMemoryError:
        return SMALL[0]
    capacity, per_sample = capacity_of(model.device, 0), line_through(first, second)
    if capacity is None or per_sample <= 0:
        return ON_CPU
    return largest_within(SHARE * capacity, *second, per_sample)


@torch.no_grad()
def memory_of_call(model: DiffusionModel, data: ImageData, rows: int) -> int:
    """Return the most memory, in bytes, of the first step of a sampler's trajectory and of a decoding.

    Args:
        model: the model, on its device.
        data: its data.
        rows: the number of samples.
    """
    peak, indices = Peak(model.device), torch.arange(rows)
    peak.begin()
    with evaluating(model):
        _, cond = model.request(indices, data.deferred("val"))
        x, noise = model.start(indices, 0)
        t = model.sampler.times(model.denoiser.schedule)[0]
        denoised = model.guided(model.sampler)(x, t, model.completed(cond, noise))
        model.autoencoder.decode(denoised.x0)
    return peak.most()
