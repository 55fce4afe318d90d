"""Images and clips that are stored as 8-bit pixels, served as samples in [-1, 1]; their order, and their names."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_of

LEVELS = 256


def fixed_order(count: int) -> Tensor:
    """Return a pseudorandom permutation of 0 to ``count - 1``, (count,) int64, that is the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def identify(settings: Mapping[str, Any]) -> str:
    """Return a hash of settings, 12 hexadecimal digits, to name the cache file of what they produce.

    Args:
        settings: values that JSON can hold, by name; their order does not matter.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class ByteImages(Samples):
    """A table of samples whose images are stored as 8-bit pixels; batches have them as float32 in [-1, 1].

    Args:
        images: uint8, (M, C, H, W); it may be mapped from a file, of which only the requested images are read.
        index: int64, (N,): sample n is ``images[index[n]]``.
        parts: the annotations by name, such as ``label`` (N,) or ``caption``, a list of N texts.
    """

    def __init__(self, images: Tensor, index: Tensor, parts: Mapping[str, Any]) -> None:
        self.images, self.index, self.parts = images, index, parts

    def __len__(self) -> int:
        return len(self.index)

    def part(self, name: str) -> Any:
        return self._pixels(self.index) if name == "x" else self.parts[name]

    def rows(self, index: Tensor) -> Batch:
        return {"x": self._pixels(self.index[index]), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return rows_of(self.parts, index)

    def _pixels(self, index: Tensor) -> Tensor:
        x = self.images.index_select(0, index)  # (B, C, H, W)
        return x.to(torch.float32).div_((LEVELS - 1) / 2).sub_(1)


class ByteClips(ByteImages):
    """A table of video clips whose frames are stored as 8-bit pixels; batches have float32 in [-1, 1], (B, C, F, H, W).

    Args:
        images: the frames of all videos, one video after the other, uint8, (M, C, H, W).
        index: int64, (N,): clip n begins at frame ``images[index[n]]``.
        parts: the annotations by name, such as ``label`` (N,).
        offsets: int64, (F,): frame f of clip n is ``images[index[n] + offsets[f]]``.
    """

    def __init__(self, images: Tensor, index: Tensor, parts: Mapping[str, Any], offsets: Tensor) -> None:
        super().__init__(images, index, parts)
        self.offsets = offsets

    def _pixels(self, index: Tensor) -> Tensor:
        frames = index[:, None] + self.offsets  # (B, F)
        x = super()._pixels(frames.flatten()).unflatten(0, frames.shape)  # (B, F, C, H, W)
        return x.transpose(1, 2).contiguous()  # (B, C, F, H, W)
