r"""SampleStatistics of a table of samples: the moments of their numbers by channel, and shares of exact duplicates.

Of channel c with the numbers :math:`x_{ncp}` of N samples at P places (pixels, of clips those of all frames) they are

.. math:: m_c = \frac{1}{NP} \sum_{n, p} x_{ncp}, \qquad s_c^2 = \frac{1}{NP} \sum_{n, p} (x_{ncp} - m_c)^2.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsweep.datasets.samples import Samples
from diffsweep.progress import tracked

AT_ONCE = 256  # samples that are read at once


@dataclass(frozen=True)
class SampleStatistics:
    """The statistics of some of the samples of a table, such as the images of a split.

    Attributes:
        count: the number of samples that were measured.
        mean, std: the mean and the standard deviation (of the population) of each channel's numbers.
        minimum, maximum: the least and the largest number of each channel.
        digests: a hash of the numbers of each sample, by which equal ones are found.
    """

    count: int
    mean: list[float]
    std: list[float]
    minimum: list[float]
    maximum: list[float]
    digests: list[bytes]

    @property
    def duplicates(self) -> float:
        """Return the share of the samples that equal one before them in every number, in [0, 1]."""
        return 1 - len(set(self.digests)) / self.count

    def among(self, others: "SampleStatistics") -> float:
        """Return the share of the samples that equal one of the samples of other statistics, in [0, 1]."""
        known = set(others.digests)
        return sum(digest in known for digest in self.digests) / self.count


def measure(samples: Samples, most: int | None, name: str = "reading") -> SampleStatistics:
    """Return the statistics of evenly spaced samples of a table, computed in float64, with progress on stderr.

    Args:
        samples: the table, of at least one sample.
        most: the largest number of samples that are read; None for all.
        name: the name of the work, as progress shows it.
    """
    count = len(samples) if most is None else min(most, len(samples))
    index = torch.arange(count) * len(samples) // count
    parts, digests, places = [], [], 0
    for x in _batches(samples, index, name):
        channels = x.transpose(0, 1).flatten(1).double()  # (C, B P)
        numbers = (channels.sum(1), channels.square().sum(1), channels.amin(1), channels.amax(1))
        parts.append(torch.stack(numbers))  # (4, C)
        digests += [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in x]
        places = x[0, 0].numel()
    sums, squares, least, largest = torch.stack(parts, 1)  # each (batches, C)
    mean = sums.sum(0) / (count * places)
    std = (squares.sum(0) / (count * places) - mean.square()).clamp(min=0).sqrt()
    low, high = least.amin(0), largest.amax(0)
    return SampleStatistics(count, mean.tolist(), std.tolist(), low.tolist(), high.tolist(), digests)


def _batches(samples: Samples, index: Tensor, name: str) -> Iterator[Tensor]:
    """Yield the images or clips of the samples that an index selects, (B, C, ...), in its order."""
    for some in tracked(index.split(AT_ONCE), name, "batch"):
        yield samples.rows(some)["x"].contiguous()
