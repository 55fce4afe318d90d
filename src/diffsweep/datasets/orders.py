r"""Orders of the training samples: which row of the data is sample n of the training run.

An order is a function of (seed, n) alone, so a run that is resumed after any number of steps goes on with the same
batches as one that was never stopped. Of N samples, the plain order is

.. math:: \mathrm{row}(n) = \pi_e(n \bmod N), \qquad e = \lfloor n / N \rfloor,

with a pseudorandom permutation :math:`\pi_e` for each epoch e. With balanced classes, samples come in rounds of K, one
of each class. Within a
class the order is a plain one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diffsweep.files import ContentError

ALL = 0  # the number of the subset of all samples, among the subsets that are permuted apart
ROUNDS = -1


class Order(ABC):
    """A base class for orders of training samples, which map positions in the training run to rows of the data."""

    @abstractmethod
    def rows(self, positions: range) -> Tensor:
        """Return the rows of the samples at successive positions in the training run, int64 (B,).

        Subclasses define the order.
        """


class Permutations:
    """Endless sequences of rows: each subset of the data is gone through again and again, each time in a new order.

    Draw k of a subset of N rows is ``subset[permutation[k % N]]``, where the permutation depends on the seed, the
    number of the subset and k // N alone. The latest two permutations of each subset are kept in memory.

    Args:
        subsets: the rows of each subset by its number, int64 (N,).
        seed: determines the permutations.
    """

    def __init__(self, subsets: Mapping[int, Tensor], seed: int) -> None:
        self.subsets, self.seed = subsets, seed
        self._kept: dict[int, dict[int, np.ndarray]] = {subset: {} for subset in subsets}

    def _pass(self, subset: int, number: int) -> np.ndarray:
        """Return the rows of a subset in the order of one pass through them, which are counted from 0."""
        kept = self._kept[subset]
        if number not in kept:
            rows = self.subsets[subset]
            seed = (self.seed * 1_000_003 + number + subset * 0x9E3779B97F4A7C15) % 2**63
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            kept = {k: v for k, v in kept.items() if k == number - 1}  # a batch may span two passes
            kept[number] = rows[order].numpy()
            self._kept[subset] = kept
        return kept[number]

    def draw(self, subset: int, draw: int) -> int:
        """Return the row of one draw of a subset, from draw 0."""
        number, place = divmod(draw, len(self.subsets[subset]))
        return int(self._pass(subset, number)[place])

    def draws(self, subset: int, draws: range) -> Tensor:
        """Return the rows of successive draws of a subset, int64, (number of draws,)."""
        size, first = len(self.subsets[subset]), draws.start
        parts = []
        while first < draws.stop:
            number, place = divmod(first, size)
            parts.append(self._pass(subset, number)[place : place + draws.stop - first])
            first += len(parts[-1])
        return torch.from_numpy(np.concatenate(parts))


class Shuffled(Order):
    """The plain order: epoch follows epoch, and each goes through all samples in a random order of its own.

    Args:
        count: N, the number of samples.
        seed: determines the orders.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._permutations = Permutations({ALL: torch.arange(count)}, seed)

    def rows(self, positions: range) -> Tensor:
        return self._permutations.draws(ALL, positions)


class BalancedClasses(Order):
    """An order in which all classes are equally frequent, however many samples each has.

    Positions r K to r K + K - 1 are round r of K classes: one sample of each, in a random order. Sample n of the run is
    draw n // K of its class. So a class of N_c samples is gone through in N_c rounds, then again in another order, and
    the samples of small classes recur more often than those of large ones.

    Args:
        label: the class of each sample, int64 (N,), from 0 to K - 1.
        num_classes: K.
        seed: determines the orders.

    Raises:
        ContentError: a class has no sample; the message names the first.
    """

    def __init__(self, label: Tensor, num_classes: int, seed: int) -> None:
        counts = torch.bincount(label, minlength=num_classes)
        if len(empty := (counts == 0).nonzero()):
            raise ContentError(
                f"dataset.balance=classes draws all classes equally often, but class {int(empty[0])} of {num_classes} "
                "has no training sample; use dataset.balance=none"
            )
        self.num_classes = num_classes
        subsets = dict(enumerate(label.argsort(stable=True).split(counts.tolist()), start=1))
        self._permutations = Permutations({ROUNDS: torch.arange(num_classes), **subsets}, seed)

    def rows(self, positions: range) -> Tensor:
        classes = self._permutations.draws(ROUNDS, positions).tolist()
        rounds = (position // self.num_classes for position in positions)
        return torch.tensor([self._permutations.draw(1 + c, r) for c, r in zip(classes, rounds, strict=True)])
