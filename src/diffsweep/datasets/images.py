"""Decode image files to 8-bit pixels of one size, and serve such pixels as samples in [-1, 1]."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_of

LEVELS = 256
MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels


class Decoded(NamedTuple):
    """A decoded image that has been scaled and cropped to a requested size.

    Attributes:
        pixels: uint8, (C, H, W).
        enlarged: whether the original's shorter side was smaller than the requested size, so that it was scaled up.
    """

    pixels: np.ndarray
    enlarged: bool


def decode(content: bytes, channels: int, image_size: int) -> Decoded:
    """Decode an image file (PNG, JPEG, WebP, ...) to 8-bit pixels of a square of the given size.

    The image is rotated by its EXIF orientation. 16-bit values v become 8-bit ones by rounding v / 257. Colour becomes
    grey by ITU-R 601 luma, grey becomes colour by three equal channels, and transparency is dropped. An image of
    another size is scaled by Pillow's antialiased bicubic filter until its shorter side fits, and its centre is
    cropped.

    Args:
        content: the bytes of the file.
        channels: 1 (grey) or 3 (RGB).
        image_size: H and W of the result.

    Raises:
        OSError, ValueError: the content is no image, or its pixels have no fixed range (floating point, or more than 16
            bits).
    """
    return fitted(read_image(content), channels, image_size)


def read_image(content: bytes) -> Any:
    """Return an encoded image (PNG, JPEG, WebP, ...) as a Pillow image of 8 bits a channel, in its own size and mode.

    It is rotated by its EXIF orientation. 16-bit values v become 8-bit ones by rounding v / 257.

    Args:
        content: the bytes of the file.

    Raises:
        OSError, ValueError: the content is no image, or its pixels have no fixed range.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        return _in_bytes(ImageOps.exif_transpose(opened))


def fitted(image: Any, channels: int, image_size: int) -> Decoded:
    """Return a Pillow image of 8 bits a channel, converted to the given channels and scaled and cropped to a square.

    It is scaled by Pillow's antialiased bicubic filter until its shorter side fits, and its centre is cropped.

    Args:
        image: the Pillow image.
        channels: C, 1 (grey) or 3 (RGB).
        image_size: H and W of the result.
    """
    from PIL import Image, ImageOps

    image = image.convert(MODES[channels])
    enlarged = min(image.size) < image_size
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(image).reshape(image_size, image_size, channels)
    return Decoded(pixels.transpose(2, 0, 1), enlarged)


def _in_bytes(image: Any) -> Any:
    """Return a Pillow image with 8 bits a channel; Pillow's own conversion would clip 16-bit values at 255."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no fixed range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


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
