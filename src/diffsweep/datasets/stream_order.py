r"""The order in which streamed training data are read: random, known at every position, and local in the files.

The rows of the files lie in pieces that are read at once, such as the row groups of parquet files. In epoch e the
pieces follow each other in a random order, and the rows of each piece too. This sequence is cut into windows of W
rows (``dataset.shuffle_buffer``), and within each window all rows are permuted. Row n of an epoch is

.. math:: q[\, W b + \rho_{e,b}(n - W b) \,], \qquad b = \lfloor n / W \rfloor,

where q is the sequence and each permutation depends on (seed, e, number of the window or piece) alone. So the row at
every position is known without reading what comes before it, and no state of a buffer must be saved: a run goes on with
the very samples that it would have had, with any number of workers, and of n devices each reads its own batches. A
buffer that fills as the data are read, as that of ``datasets.IterableDataset``, has another order for each number of
workers, and to resume it all images before would have to be read again.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from diffsweep.datasets.orders import Order

KEPT = 4  # windows whose permutation is kept


def order_of_pieces(ends: Sequence[int]) -> Tensor:
    """Return the rows of a table, int64 (N,), with its pieces in a random order that is the same in every run.

    A piece is a range of rows that are read at once, such as a row group of a parquet file; its rows keep their order.

    Args:
        ends: for each piece, the number of rows of the table up to its end.
    """
    starts = [0, *ends[:-1]]
    order = torch.randperm(len(ends), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.cat([torch.arange(starts[piece], ends[piece]) for piece in order])


class WindowedOrder:
    """The random order of the samples in one epoch, a slice of which is computed without the rest.

    The pieces of the files, which are read at once, are put in a random order, and the samples of each piece too. Then
    each window, which is W successive samples of this sequence, is permuted. ``order[a:b]`` is an int64 tensor of the
    numbers of samples at the places a to b - 1 of the epoch.

    Every number from 0 to N - 1 occurs once. With mirrors N + i stands for the mirror of sample i, every number from 0
    to 2 N - 1 occurs once, and windows are twice as long.

    Args:
        ends: for each piece of the files, the number of samples up to its end; the last is N.
        window: W, the number of samples that are permuted together.
        seed, epoch: determine the order.
        mirrored: whether mirrors are among the samples.
    """

    def __init__(self, ends: Sequence[int], window: int, seed: int, epoch: int, mirrored: bool = False) -> None:
        self.window, self.seed, self.epoch, self.mirrored = window, seed, epoch, mirrored
        self.ends = torch.tensor(ends, dtype=torch.int64)
        self.starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        self.pieces = self._permutation(len(ends), "pieces", 0)
        self.sequence_ends = (self.ends - self.starts)[self.pieces].cumsum(0)  # of the pieces in their random order
        self._windows: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) * (2 if self.mirrored else 1)

    def __getitem__(self, places: slice) -> Tensor:
        """Return the numbers of the samples at the given places of the epoch, int64; places past its end are left out.

        Args:
            places: a slice with a start and a stop, without a step.
        """
        size = self.window * (2 if self.mirrored else 1)
        place, stop, parts = places.start, min(places.stop, len(self)), []
        while place < stop:
            number, begin = divmod(place, size)
            parts.append(self._window(number)[begin : begin + stop - place])
            place += len(parts[-1])
        return torch.cat(parts) if parts else self.ends.new_zeros(0)

    def _window(self, number: int) -> Tensor:
        """Return the samples of a window in their random order."""
        if number not in self._windows:
            first, stop = number * self.window, min((number + 1) * self.window, int(self.ends[-1]))
            parts = []
            while first < stop:
                place = int(torch.searchsorted(self.sequence_ends, first, right=True))
                piece, end = int(self.pieces[place]), int(self.sequence_ends[place])
                start, size = int(self.starts[piece]), int(self.ends[piece] - self.starts[piece])
                inside = self._permutation(size, "piece", piece)[size - end + first : size - end + stop]
                parts.append(start + inside)
                first += len(inside)
            rows = torch.cat(parts)
            if self.mirrored:
                rows = torch.cat([rows, rows + self.ends[-1]])
            self._windows = dict(list(self._windows.items())[1 - KEPT :])
            self._windows[number] = rows[self._permutation(len(rows), "window", number)]
        return self._windows[number]

    def _permutation(self, count: int, kind: str, number: int) -> Tensor:
        """Return a permutation of 0 to ``count - 1`` that depends on the seed, the epoch, a kind and a number."""
        key = hashlib.blake2b(repr((self.seed, self.epoch, kind, number)).encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key, "big") % 2**63)
        return torch.randperm(count, generator=generator)


class StreamedOrder(Order):
    """The order of streamed training samples: epoch follows epoch, each in a :class:`WindowedOrder` of its own.

    Args:
        ends: for each piece of the files, the number of training samples up to its end; the last is N.
        window: the number of samples that are permuted together.
        seed: determines the order of each epoch.
        mirrored: whether the mirrors of the N samples follow them.
    """

    def __init__(self, ends: Sequence[int], window: int, seed: int, mirrored: bool = False) -> None:
        self.ends, self.window, self.seed, self.mirrored = ends, window, seed, mirrored
        self._epochs: dict[int, WindowedOrder] = {}

    def rows(self, positions: range) -> Tensor:
        size, first, parts = self.ends[-1] * (2 if self.mirrored else 1), positions.start, []
        while first < positions.stop:
            epoch, place = divmod(first, size)
            if epoch not in self._epochs:
                self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}  # a batch may span two
                self._epochs[epoch] = WindowedOrder(self.ends, self.window, self.seed, epoch, self.mirrored)
            parts.append(self._epochs[epoch][place : place + positions.stop - first])
            first += len(parts[-1])
        return torch.cat(parts)
