r"""The endless stream of training batches, and the held-out samples in a fixed order, as PyTorch datasets.

Sample n of the training stream is row

.. math:: \pi_e(n \bmod N), \qquad e = \lfloor n / N \rfloor,

of the N training samples. The permutation :math:`\pi_e` of epoch e depends on (seed, e) alone, so a run that is resumed
after any number of steps goes on with the same batches as one that was never stopped.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffsweep.datasets.samples import Batch, Samples


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
    """

    def __init__(self, batch_size: int, first: int, rank: int = 0, world_size: int = 1) -> None:
        self.batch_size, self.first, self.rank, self.world_size = batch_size, first, rank, world_size

    def __iter__(self) -> Iterator[range]:
        batch = self.first * self.world_size + self.rank
        while True:
            yield range(batch * self.batch_size, (batch + 1) * self.batch_size)
            batch += self.world_size


class TrainingStream(Dataset[Batch]):
    """A dataset for PyTorch's DataLoader that maps a range of positions in the training run to a batch.

    A position is a sample's number in the run. The batch has the columns of the samples, and the positions as
    ``position`` (B,) int64. Epoch follows epoch, each in a random order of its own that depends on (seed, epoch) alone.
    A batch may span two epochs.

    Args:
        samples: the training samples.
        seed: determines the orders.
    """

    def __init__(self, samples: Samples, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}  # a batch may span two epochs
            self._orders[epoch] = torch.randperm(len(self.samples), generator=generator)
        return self._orders[epoch]

    def __getitem__(self, positions: range) -> Batch:
        size, first, end = len(self.samples), positions.start, positions.stop
        parts = []
        while first < end:
            epoch, row = divmod(first, size)
            parts.append(self._order(epoch)[row : row + end - first])
            first += len(parts[-1])
        index = parts[0] if len(parts) == 1 else torch.cat(parts)
        return {**self.samples[index], "position": torch.arange(positions.start, end)}


class HeldOut(Dataset[Batch]):
    """A dataset for PyTorch's DataLoader that maps an int64 index (B,) of held-out samples to their batch.

    The batch has the columns of the samples, and the index itself as ``index``.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: Tensor) -> Batch:
        return {**self.samples[index], "index": index}
