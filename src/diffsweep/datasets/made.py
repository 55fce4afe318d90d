"""Data that are made, not read: sample i of a split is a function of i."""

import hashlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.base import ImageData, Samples, Split


class MadeData(ImageData):
    """A dataset whose sample i of a split is a function of i: the same on any machine, in any batch and whatever the seed.

    Args:
        num_train, num_val: samples of the two splits.
        facts: those of :class:`ImageData`.
    """

    def __init__(self, *, num_train: int, num_val: int, **facts: Any) -> None:
        for key, count in (("num_train", num_train), ("num_val", num_val)):
            if count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        super().__init__(**facts)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val}

    @abstractmethod
    def made(self, index: Tensor, val: Tensor) -> Samples:
        """Return the samples of indices (N,), held-out ones where ``val`` (N,) is True."""

    def load(self, split: Split) -> Samples:
        names: tuple[Split, ...] = ("train", "val") if split == "all" else (split,)
        index = torch.cat([torch.arange(self.counts[name]) for name in names])
        val = torch.cat([torch.full((self.counts[name],), name == "val") for name in names])
        return self.made(index, val)

    def identified(self, name: str, settings: object) -> str:
        """Return a fingerprint: a name, the numbers of samples, and a hash of settings and of the first samples, so of how these are
        made too."""
        digest = hashlib.sha256(repr(settings).encode())
        for split, count in self.counts.items():
            digest.update(self.split(split).rows(torch.arange(min(count, 64)))["x"].numpy().tobytes())
        return f"{name}-{self.counts['train']}-{self.counts['val']}-{digest.hexdigest()[:12]}"
