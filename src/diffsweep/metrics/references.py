"""The real data that samples are compared with, and random choices of them, which are the same in every run."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffsweep.datasets import Split

REFERENCES = ("train", "all", "halves")


def reference_split(reference: str) -> Split:
    """Return the split that holds the real data of a reference: ``train`` for ``train``, else ``all``.

    The reference ``halves`` compares with halves of ``all``.
    """
    return "train" if reference == "train" else "all"


def halves(real: Tensor, repeats: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ten random divisions of the rows of a tensor into two halves, the same in every run.

    Args:
        real: (N, ...), such as the features of N real samples.
        repeats: number of divisions.

    Yields:
        pairs of tensors with N // 2 rows and the remaining rows.
    """
    size = len(real) // 2
    for i in range(repeats):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(i))
        yield real[order[:size]], real[order[size:]]


def choice(count: int, most: int) -> Tensor:
    """Return at most ``most`` of the indices 0 to ``count - 1``, sorted, chosen at random but the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


def random_parts(rows: Tensor, count: int, repeats: int = 10) -> list[Tensor]:
    """Return ten random choices of ``count`` rows of a tensor, the same in every run; all rows once if they are fewer.

    Args:
        rows: (N, ...).
        count: number of rows of a choice.
        repeats: number of choices.
    """
    if count >= len(rows):
        return [rows]
    return [rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(i))[:count]] for i in range(repeats)]
