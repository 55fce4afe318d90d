"""Pairs of noise and of the samples in which a teacher's trajectories from it end, as training samples of a student."""

from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_on


class StoredPairs(Samples):
    """A table of stored pairs, whose batches have ``pair`` (B, 2, ...), the noise and the end, in place of images.

    A batch also has ``pair_index``, int64 (B,), the number of each pair, and the annotations under which it was drawn:
    those of row i modulo N of the N training samples.

    Args:
        pairs: all pairs of a file, (P, 2, ...).
        first, end: the numbers of the first pair of the table and of that after its last.
        samples: the training samples; their images are never loaded.
    """

    def __init__(self, pairs: Tensor, first: int, end: int, samples: Samples) -> None:
        self.pairs, self.first, self.end, self.samples = pairs, first, end, samples

    def __len__(self) -> int:
        return self.end - self.first

    def part(self, name: str) -> Any:
        if name == "x":
            raise KeyError("x: these samples hold pairs; take the images from the dataset's split()")
        return self.rows(torch.arange(len(self)))[name]

    def rows(self, index: Tensor) -> Batch:
        pair = index + self.first
        return {"pair": rows_on(self.pairs, pair).float(), "pair_index": pair, **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations((index + self.first) % len(self.samples))

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all pairs of the file."""
        return self.pairs.nbytes

    def to(self, device: torch.device) -> Samples:
        return StoredPairs(self.pairs.to(device), self.first, self.end, self.samples)


def held_out(count: int) -> int:
    """Return how many of a number of pairs are held out for validation: a twentieth, at least 1 and at most 1,000."""
    return min(max(count // 20, 1), 1000)
