r"""Orders of the training samples: which row of the data is sample n of the training run.

An order is a function of (seed, n) alone, so a run that is resumed after any number of steps goes on with the same
batches as one that was never stopped. Of N samples, the plain order is

.. math:: \mathrm{row}(n) = \pi_e(n \bmod N), \qquad e = \lfloor n / N \rfloor,

with a pseudorandom permutation :math:`\pi_e` for each epoch e. With balanced classes, samples come in rounds of K, one
of each class. With buckets, each batch comes from one of them. Within a class or a bucket the order is a plain one.
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


def permutation(count: int, seed: int, number: int, subset: int = ALL) -> Tensor:
    """Return a pseudorandom permutation of 0 to ``count`` - 1, int64, that is a function of the arguments.

    Args:
        count: the number of elements.
        seed: the seed of the run.
        number: the number of the epoch, or of another pass.
        subset: the number of the subset of the data that is permuted.
    """
    mixed = (seed * 1_000_003 + number + subset * 0x9E3779B97F4A7C15) % 2**63
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))


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
            kept = {k: v for k, v in kept.items() if k == number - 1}  # a batch may span two passes
            kept[number] = rows[permutation(len(rows), self.seed, number, subset)].numpy()
            self._kept[subset] = kept
        return kept[number]

    def draw(self, subset: int, draw: int) -> int:
        """Return the row that a subset gives at one draw, the first of which is draw 0.

        Args:
            subset: the number of the subset.
            draw: the number of the draw.
        """
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
    """An order in which epoch follows epoch, and each goes through all samples in a random order of its own.

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


class BucketedBatches(Order):
    r"""An order of batches of B samples from one bucket each, such as images of one size.

    After e epochs, bucket b of N_b samples has had :math:`\lfloor e N_b / B \rfloor` batches: the samples that are left
    over wait for the next epoch. The batches of an epoch are in a random order. Within a bucket the order is a plain
    one: all of its samples are drawn before one recurs, and a batch may span the end of one pass and the start of the
    next. So in the long run every sample is equally frequent. A bucket of fewer than B samples has a batch in some
    epochs alone, in which its samples recur.

    Args:
        bucket: the number of the bucket of each sample, int64 (N,), from 0; none is empty.
        batch_size: B.
        seed: determines the orders.

    Raises:
        ValueError: :meth:`rows` is called with other positions than those of one batch, n B to n B + B - 1.
    """

    def __init__(self, bucket: Tensor, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._counts = [int(count) for count in torch.bincount(bucket)]
        subsets = bucket.argsort(stable=True).split(self._counts)
        self._permutations = Permutations(dict(enumerate(subsets, start=1)), seed)
        self.seed = seed
        self._epoch, self._buckets = 0, np.empty(0, np.int64)  # those of its batches, in their order

    def _batches(self, epochs: int) -> list[int]:
        """Return how many batches each bucket has had after a number of epochs."""
        return [epochs * count // self.batch_size for count in self._counts]

    def _of_epoch(self, epoch: int) -> np.ndarray:
        """Return the buckets of the batches of an epoch, which are counted from 1."""
        if epoch != self._epoch:
            counts = np.subtract(self._batches(epoch), self._batches(epoch - 1))
            each = np.repeat(np.arange(len(counts)), counts)
            self._epoch, self._buckets = epoch, each[permutation(len(each), self.seed, epoch, ROUNDS).numpy()]
        return self._buckets

    def rows(self, positions: range) -> Tensor:
        number, rest = divmod(positions.start, self.batch_size)
        if rest or len(positions) != self.batch_size:
            raise ValueError(f"positions {positions.start} to {positions.stop - 1} are not those of one batch")
        epoch = positions.start // sum(self._counts) + 1  # no earlier one: at most as many batches as samples allow
        while sum(self._batches(epoch)) <= number:
            epoch += 1
        before = self._batches(epoch - 1)
        place = number - sum(before)
        buckets = self._of_epoch(epoch)
        bucket = int(buckets[place])
        draw = self.batch_size * (before[bucket] + int((buckets[:place] == bucket).sum()))
        return self._permutations.draws(1 + bucket, range(draw, draw + self.batch_size))
