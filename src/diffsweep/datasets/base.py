"""What datasets share: an infinite, counted stream of training batches, and a held-out split in a fixed order."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffsweep.capabilities import Part
from diffsweep.datasets.bouncing import Physics

Split = Literal["train", "val", "all"]
Batch = dict[str, Any]  # tensors, and lists of words, with the samples first


class Samples(ABC):
    """The samples of a split: ``samples["x"]`` is that part of all of them, ``samples[index]`` a batch of some, by int64 index."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def part(self, name: str) -> Any:
        """A part of all samples, in their order."""

    @abstractmethod
    def rows(self, index: Tensor) -> Batch:
        """A batch of the samples of an index, (B,)."""

    def annotations(self, index: Tensor) -> Batch:
        """The batch without ``x``: what is told of the samples. Images are not touched where they need not be."""
        return {name: part for name, part in self.rows(index).items() if name != "x"}

    def __getitem__(self, which: str | Tensor) -> Any:
        return self.part(which) if isinstance(which, str) else self.rows(which)


class InMemory(Samples):
    """Samples whose parts are held in memory: tensors, or lists of words."""

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


class Mirrored(Samples):
    """N samples and their mirrors: row N + i is row i with ``x`` from right to left, and all else that is told of it as it is."""

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
        batch = self.samples.rows(index % len(self.samples))
        mirrored = index >= len(self.samples)  # (B,)
        x = batch["x"]
        return {**batch, "x": torch.where(mirrored.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(index % len(self.samples))


def rows_of(batch: Mapping[str, Any], index: Tensor) -> Batch:
    """Some rows of a batch, (B,), of the batches within it too."""
    return {name: _rows(part, index) for name, part in batch.items()}


def _rows(part: Any, index: Tensor) -> Any:
    if isinstance(part, Mapping):
        return rows_of(part, index)
    return part.index_select(0, index) if isinstance(part, Tensor) else [part[i] for i in index.tolist()]


class Positions(Sampler[range]):
    """Batches of positions in the endless stream of training samples, from batch ``first`` on.

    A position counts the samples seen, over all devices: it keys the order of the data, augmentation and noise, so that
    training goes on exactly where it stopped with nothing to save but the number of steps.
    """

    def __init__(self, batch_size: int, first: int, rank: int = 0, world_size: int = 1) -> None:
        self.batch_size, self.first, self.rank, self.world_size = batch_size, first, rank, world_size

    def __iter__(self) -> Iterator[range]:
        batch = self.first * self.world_size + self.rank
        while True:
            yield range(batch * self.batch_size, (batch + 1) * self.batch_size)
            batch += self.world_size


class TrainingStream(Dataset[Batch]):
    """The endless stream: epoch after epoch, each in a random order of its own, keyed by (seed, epoch)."""

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
    """The held-out samples in their order; ``index`` counts them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: Tensor) -> Batch:
        return {**self.samples[index], "index": index}


class ImageData(LightningDataModule, Part):
    """A dataset of images, or of clips. A subclass defines :meth:`load`.

    A batch is a dict: ``x`` (B, C, H, W), of clips (B, C, F, H, W), in [-1, 1], ``label`` (B,) int64 where there are labels, ``caption`` (a list of B
    texts) where there are captions, and ``position`` (training) or ``index`` (held out).

    Args:
        channels, image_size, num_classes, levels: facts of the data that all else takes its sizes from; ``num_classes`` is None
            where there are no labels; ``levels`` is the number of grey levels of each channel (for likelihoods).
        batch_size: samples a step and device.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        seed: keys the order of the data.
        flip: whether training sees each image and its mirror, as samples of their own. What they are compared with does not change:
            ``split("train")`` has no mirrors.
        num_frames: another fact of the data, F of clips; None for images.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        num_classes: int | None,
        levels: int,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
        num_frames: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"dataset.batch_size must be at least 1, not {batch_size}")
        if num_workers < 0:
            raise ValueError(f"dataset.num_workers must be at least 0, not {num_workers}")
        self.channels, self.image_size, self.num_classes, self.levels = channels, image_size, num_classes, levels
        self.num_frames = num_frames
        self.batch_size, self.num_workers, self.seed, self.flip = batch_size, num_workers, seed, flip
        self._splits: dict[str, Samples] = {}
        self._replaced: dict[str, Samples] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (C, H, W), of clips (C, F, H, W)."""
        frames = () if self.num_frames is None else (self.num_frames,)
        return (self.channels, *frames, self.image_size, self.image_size)

    @abstractmethod
    def load(self, split: Split) -> Samples:
        """The samples of a split."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies the data: statistics of real data are cached under it."""

    def aligned(self, x: Tensor, batch: Batch) -> dict[str, Tensor] | None:
        """How far samples show what was asked of them, where the data can tell; None where it cannot.

        Args:
            x: samples, (N, C, H, W).
            batch: what was asked, with N captions or labels.

        Returns:
            Of each sample whether ``colour``, ``shape``, ``position``, ``size`` and ``colour_and_shape`` are right, and whether the pair of
            colour and shape is ``held_out`` of training; all bool, (N,).
        """
        return None

    @property
    def physics(self) -> Physics | None:
        """The law that the motion of a clip is known to obey, which samples can be held against; None where none is known."""
        return None

    def split(self, name: Split) -> Samples:
        """The samples of a split, loaded once."""
        if name not in self._splits:
            self._splits[name] = self.load(name)
        return self._splits[name]

    def loader_samples(self, split: Split) -> Samples:
        """What the loaders give of a split: its samples, in training with their mirrors where ``flip`` is set, or what :meth:`see` put in
        their place."""
        if split in self._replaced:
            return self._replaced[split]
        samples = self.split(split)
        return Mirrored(samples) if self.flip and split == "train" else samples

    def replace_samples(self, split: Split, samples: Samples) -> None:
        """From now on the loaders give these samples of a split, as many as before and in their order, in place of the pixels."""
        self._replaced[split] = samples

    def train_dataloader(self) -> DataLoader[Batch]:
        """The stream, from the step that training is at."""
        trainer = self.trainer
        steps, rank, world = (
            (0, 0, 1) if trainer is None else (trainer.global_step, trainer.global_rank, trainer.world_size)
        )
        batches = steps * (1 if trainer is None else trainer.accumulate_grad_batches)
        return DataLoader(
            TrainingStream(self.loader_samples("train"), self.seed),
            sampler=Positions(self.batch_size, batches, rank, world),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def num_val(self) -> int:
        """Number of held-out samples."""
        return len(self.split("val"))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out split, each rank a share."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        index = torch.arange(self.num_val)[rank::world]
        return DataLoader(HeldOut(self.loader_samples("val")), sampler=list(index.split(256)), batch_size=None)  # type: ignore[arg-type]
