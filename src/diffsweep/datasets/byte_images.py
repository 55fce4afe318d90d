"""Images and clips that are stored as 8-bit pixels, served as samples in [-1, 1]; their order, and their names."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_of, rows_on

LEVELS = 256
BLOCK = 1 << 26  # bytes that are copied at once


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
        index: int64, (N,), on the CPU: sample n is ``images[index[n]]``.
        parts: the annotations by name, such as ``label`` (N,) or ``caption``, a list of N texts.
    """

    def __init__(self, images: Tensor, index: Tensor, parts: Mapping[str, Any]) -> None:
        self.images, self.index, self.parts = images, index, parts
        # A tensor on their device: GPUs divide by a number as they multiply by its rounded reciprocal.
        self.half = torch.tensor((LEVELS - 1) / 2, device=images.device)

    def __len__(self) -> int:
        return len(self.index)

    def part(self, name: str) -> Any:
        return self._pixels(self.index) if name == "x" else self.parts[name]

    def rows(self, index: Tensor) -> Batch:
        return {"x": self._pixels(self.index[index]), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return rows_of(self.parts, index)

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of the images of all samples."""
        return len(self.index) * self.images[0].nbytes

    def to(self, device: torch.device) -> Samples:
        return ByteImages(copied(self.images, self.index, device), torch.arange(len(self.index)), self.parts)

    def _pixels(self, index: Tensor) -> Tensor:
        x = rows_on(self.images, index)  # (B, C, H, W)
        return x.to(torch.float32).div_(self.half).sub_(1)


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

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of the frames from the first to the last of each clip, those of several clips once."""
        return len(self._spanned) * self.images[0].nbytes

    def to(self, device: torch.device) -> Samples:
        spanned = self._spanned
        first = torch.searchsorted(spanned, self.index)
        return ByteClips(copied(self.images, spanned, device), first, self.parts, self.offsets)

    @property
    def _spanned(self) -> Tensor:
        """The frames from the first to the last of each clip, ascending, so that those of a clip follow each other."""
        return (self.index[:, None] + torch.arange(int(self.offsets.max()) + 1)).unique()

    def _pixels(self, index: Tensor) -> Tensor:
        frames = index[:, None] + self.offsets  # (B, F)
        x = super()._pixels(frames.flatten()).unflatten(0, frames.shape)  # (B, F, C, H, W)
        return x.transpose(1, 2).contiguous()  # (B, C, F, H, W)


def copied(images: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Return the rows of a tensor (M, ...) that an int64 index (N,) selects, copied to a device, (N, ...).

    They are copied in blocks of up to 64 MB, so that a tensor that is mapped from a file is never whole in memory.
    """
    result = torch.empty((len(index), *images.shape[1:]), dtype=images.dtype, device=device)
    rows = max(1, BLOCK // max(1, images[0].nbytes))
    for target, some in zip(result.split(rows), index.split(rows), strict=True):
        target.copy_(images.index_select(0, some))
    return result
