"""The endless stream of training batches, and the held-out samples in a fixed order, as PyTorch datasets."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffsweep.datasets.orders import Order
from diffsweep.datasets.samples import Batch, Samples
from diffsweep.diffusion import Noise
from diffsweep.layers import send

CPU = torch.device("cpu")


class Positions(Sampler[range]):
    """A sampler for PyTorch's DataLoader that yields, without end, the range of positions of each training batch.

    The position of a sample is its number in the whole training run, counted over all devices. It keys the order of the
    data, augmentation and noise, so that a run resumes exactly where it stopped and has only its number of steps to
    save.

    Args:
        batch_size: samples of a batch on one device.
        first: the number of batches that each device has already trained on.
        rank, world_size: this device's number from 0, and the number of devices. Of ``world_size`` successive batches
            each device takes one.
        offset: added to all positions.
    """

    def __init__(self, batch_size: int, first: int, rank: int = 0, world_size: int = 1, offset: int = 0) -> None:
        self.batch_size, self.first, self.rank, self.world_size = batch_size, first, rank, world_size
        self.offset = offset

    def __iter__(self) -> Iterator[range]:
        batch = self.first * self.world_size + self.rank
        while True:
            start = self.offset + batch * self.batch_size
            yield range(start, start + self.batch_size)
            batch += self.world_size


class TrainingStream(Dataset[Batch]):
    """A dataset for PyTorch's DataLoader that maps a range of positions in the training run to a batch.

    A position is a sample's number in the run. The batch has the columns of the samples, and the positions as
    ``position`` (B,) int64.

    Args:
        samples: the training samples.
        order: which sample each position has.
        device: the device of all tensors of a batch. Where it is a GPU, the samples should have their images on it:
            then a batch is made on it, and nothing waits for it.
        seed: keys, with the position, the random changes of samples, such as crops.
    """

    def __init__(self, samples: Samples, order: Order, device: torch.device = CPU, seed: int = 0) -> None:
        self.samples, self.order, self.device, self.seed = samples, order, device, seed

    def __getitem__(self, positions: range) -> Batch:
        position = torch.arange(positions.start, positions.stop, device=self.device)
        noise = Noise(self.seed, torch.arange(positions.start, positions.stop))
        batch = self.samples.visited(self.order.rows(positions), noise)
        return {**_on(batch, self.device), "position": position}


class HeldOut(Dataset[Batch]):
    """A dataset for PyTorch's DataLoader that maps an int64 index (B,) of held-out samples to their batch.

    The batch has the columns of the samples, and the index itself as ``index``.

    Args:
        samples: the held-out samples.
        device: the device of all tensors of a batch, as of :class:`TrainingStream`.
    """

    def __init__(self, samples: Samples, device: torch.device = CPU) -> None:
        self.samples, self.device = samples, device

    def __getitem__(self, index: Tensor) -> Batch:
        return _on({**self.samples[index], "index": index}, self.device)


def _on(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device, those from the CPU as copies that nothing waits for."""
    return {name: send(part, device) if isinstance(part, Tensor) else part for name, part in batch.items()}
