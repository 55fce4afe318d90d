"""The base class of synthetic datasets, which compute sample i of a split from i instead of reading it from a file."""

import hashlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.base import ImageData
from diffsweep.datasets.samples import Samples, Split


class SyntheticData(ImageData):
    """A base class for datasets that compute sample i of a split from i alone, so that no seed or batch changes it.

    Subclasses define :meth:`samples_at`, which computes samples, and ``fingerprint``, for which :meth:`fingerprint_of`
    helps.

    Args:
        num_train, num_val: number of training and of held-out samples.
        settings: further arguments of :class:`~diffsweep.datasets.base.ImageData`.

    Raises:
        ValueError: ``num_train`` or ``num_val`` is below 1.
    """

    def __init__(self, *, num_train: int, num_val: int, **settings: Any) -> None:
        for key, count in (("num_train", num_train), ("num_val", num_val)):
            if count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        super().__init__(**settings)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val}

    @property
    def stores_images(self) -> bool:
        """Return False: images are computed when they are requested."""
        return False

    @abstractmethod
    def samples_at(self, index: Tensor, val: Tensor) -> Samples:
        """Return the samples with the given numbers in their splits; subclasses define how they are computed.

        Args:
            index: int64, (N,), the number of each sample in its split.
            val: bool, (N,), True for a sample of the held-out split, False for one of the training split.
        """

    def load(self, split: Split) -> Samples:
        names: tuple[Split, ...] = ("train", "val") if split == "all" else (split,)
        index = torch.cat([torch.arange(self.counts[name]) for name in names])
        val = torch.cat([torch.full((self.counts[name],), name == "val") for name in names])
        return self.samples_at(index, val)

    def fingerprint_of(self, name: str, settings: object) -> str:
        """Return a text that identifies the data: ``name``, the sizes of the splits, and a hash of settings and images.

        The first 64 images or clips of each split are hashed, so that the text changes with the code that computes
        them.

        Args:
            name: how the text begins.
            settings: all other settings that change the samples; their ``repr`` is hashed.
        """
        digest = hashlib.sha256(repr(settings).encode())
        for split, count in self.counts.items():
            digest.update(self.split(split).rows(torch.arange(min(count, 64)))["x"].numpy().tobytes())
        return f"{name}-{self.counts['train']}-{self.counts['val']}-{digest.hexdigest()[:12]}"
