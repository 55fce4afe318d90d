"""Samples: tables whose rows are the images or clips of a dataset with their labels, captions and other annotations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffsweep.diffusion import Known, Noise, Pasted
from diffsweep.layers import send

Split = Literal["train", "val", "all"]
Batch = dict[str, Any]  # tensors whose first dimension counts the samples, and lists with one text for each sample


class Samples(ABC):
    """A base class for tables of samples, such as a split of a dataset, with a column ``x`` of images or clips.

    The other columns are annotations, such as labels. ``samples["label"]`` is one column for all samples;
    ``samples[index]``, with an int64 tensor (B,), is a batch: a dict of all columns of some samples. Subclasses define
    :meth:`part`, :meth:`rows` and the length, and so decide whether images are held in memory, rendered, or read from a
    file when they are requested.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples; subclasses define it."""

    @abstractmethod
    def part(self, name: str) -> Any:
        """Return one column of all samples in their order; subclasses define it.

        Args:
            name: ``x`` for the images or clips, or the name of an annotation such as ``label``.

        Returns:
            a tensor whose first dimension counts the samples, or a list of a text for each sample.
        """

    @abstractmethod
    def rows(self, index: Tensor) -> Batch:
        """Return the batch of the samples that an int64 index (B,) selects; subclasses define it.

        The batch is a dict of all columns, images and annotations, each with B rows.
        """

    def visited(self, index: Tensor, noise: Noise) -> Batch:
        """Return the batch of a training visit of the samples that an int64 index (B,) selects.

        It is that of :meth:`rows`, in which subclasses change ``x`` at random, for example by a crop.

        Args:
            index: the samples.
            noise: draws the changes of each row, from a seed and the row's position in the training run.
        """
        return self.rows(index)

    def annotations(self, index: Tensor) -> Batch:
        """Return the labels, captions and other columns but ``x`` of the samples that an int64 index (B,) selects.

        Here they are taken from :meth:`rows`. Subclasses that load or render images on demand override it, so that no
        image is loaded.
        """
        return {name: part for name, part in self.rows(index).items() if name != "x"}

    @property
    def stored_bytes(self) -> int | None:
        """Return the bytes of all images (or of what batches have in their place), as :meth:`to` copies them.

        It is None, as here, where images are drawn or decoded only when they are requested. Subclasses that store the
        pixels override both.
        """
        return None

    def to(self, device: torch.device) -> "Samples":
        """Return a table of the same samples with the images copied to a device, so that batches have ``x`` on it.

        The annotations stay where they are, and an index for :meth:`rows` is on the CPU as before.

        Raises:
            TypeError: the images are not stored (:attr:`stored_bytes` is None).
        """
        raise TypeError(f"the images of {type(self).__name__} are not stored, so they cannot be copied to {device}")

    def __getitem__(self, which: str | Tensor) -> Any:
        return self.part(which) if isinstance(which, str) else self.rows(which)


class InMemory(Samples):
    """A table of samples held in memory.

    Args:
        parts: the columns by name, among them ``x``: tensors whose first dimension counts the samples, or lists of
            texts.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts["x"])

    def part(self, name: str) -> Any:
        return self.parts[name]

    def rows(self, index: Tensor) -> Batch:
        return rows_of(self.parts, index)

    def annotations(self, index: Tensor) -> Batch:
        return rows_of({name: part for name, part in self.parts.items() if name != "x"}, index)

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all images."""
        size: int = self.parts["x"].nbytes
        return size

    def to(self, device: torch.device) -> Samples:
        return InMemory({**self.parts, "x": self.parts["x"].to(device)})


class Mirrored(Samples):
    """A table of N given samples and their mirrors: row N + i is row i with ``x`` flipped left to right.

    The annotations of a mirror are those of its original.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 2 * len(self.samples)

    def part(self, name: str) -> Any:
        part = self.samples.part(name)
        if isinstance(part, Tensor):
            return torch.cat([part, part.flip(-1) if name == "x" else part])
        return [*part, *part]

    def rows(self, index: Tensor) -> Batch:
        return self._mirrored(self.samples.rows(index % len(self.samples)), index)

    def visited(self, index: Tensor, noise: Noise) -> Batch:
        return self._mirrored(self.samples.visited(index % len(self.samples), noise), index)

    def _mirrored(self, batch: Batch, index: Tensor) -> Batch:
        x = batch["x"]
        mirrored = send(index >= len(self.samples), x.device)  # (B,)
        return {**batch, "x": torch.where(mirrored.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(index % len(self.samples))

    @property
    def stored_bytes(self) -> int | None:
        """Return the bytes of the given samples: mirrors are made of them."""
        return self.samples.stored_bytes

    def to(self, device: torch.device) -> Samples:
        return Mirrored(self.samples.to(device))


def rows_of(batch: Mapping[str, Any], index: Tensor) -> Batch:
    """Return the rows of a batch that an int64 index (B,) selects, also of batches that are nested in it as dicts.

    Args:
        batch: tensors whose first dimension counts the samples, lists with one text for each sample,
            measurements of the samples, or dicts of these.
        index: the numbers of the rows, in the order in which they are returned, on the CPU; of a tensor on another
            device the rows are on that device.
    """
    return {name: _rows(part, index) for name, part in batch.items()}


def joined_rows(parts: Sequence[Mapping[str, Any]]) -> Batch:
    """Return the batch of the rows of several batches, in their order; the inverse of taking rows by :func:`rows_of`.

    Args:
        parts: at least one batch, all with the same names: tensors whose first dimension counts the samples, lists with
            one entry for each sample, or dicts of these.
    """
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return joined_rows(parts)
    return torch.cat(tuple(parts)) if isinstance(parts[0], Tensor) else [row for part in parts for row in part]


def _rows(part: Any, index: Tensor) -> Any:
    if isinstance(part, Mapping):
        return rows_of(part, index)
    if isinstance(part, Known | Pasted):
        return part[send(index, part.device)]
    return rows_on(part, index) if isinstance(part, Tensor) else [part[i] for i in index.tolist()]


def rows_on(part: Tensor, index: Tensor) -> Tensor:
    """Return the rows of a tensor that an int64 index (B,) on the CPU selects, on the device of the tensor.

    The index is copied to a GPU without waiting for it.
    """
    return part.index_select(0, send(index, part.device))


class DeferredSamples(Samples):
    """Samples that are loaded when the first of them is taken.

    Args:
        load: returns the samples.
    """

    def __init__(self, load: Callable[[], Samples]) -> None:
        self.load = load

    def __len__(self) -> int:
        return len(self.load())

    def part(self, name: str) -> Any:
        return self.load().part(name)

    def rows(self, index: Tensor) -> Batch:
        return self.load().rows(index)

    def annotations(self, index: Tensor) -> Batch:
        return self.load().annotations(index)

    def __getitem__(self, which: str | Tensor) -> Any:
        return self.load()[which]
