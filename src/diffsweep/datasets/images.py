"""Images as bytes: how a file's content becomes some, and samples of them."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.base import Batch, Samples, rows_of

LEVELS = 256
MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels


class Decoded(NamedTuple):
    """An image of a file.

    Attributes:
        pixels: uint8, (C, H, W).
        enlarged: whether it was smaller than was asked for.
    """

    pixels: np.ndarray
    enlarged: bool


def decode(content: bytes, channels: int, image_size: int) -> Decoded:
    """An encoded image (PNG, JPEG, WebP, ...) as uint8 of one size.

    It is turned as its EXIF orientation says. 16 bits become 8 by rounding v / 257. Colour becomes grey by ITU-R 601 luma, grey becomes
    colour by three equal channels, and transparency is dropped. An image of another size is scaled, so that its shorter side
    fits, by Pillow's antialiased bicubic filter, and its centre is cropped.

    Args:
        content: the bytes of the file.
        channels: 1 or 3.
        image_size: H and W.

    Raises:
        OSError, ValueError: it is no image, or has no fixed range of values.
    """
    return fitted(read_image(content), channels, image_size)


def read_image(content: bytes) -> Any:
    """An encoded image as a Pillow image of 8 bits a channel, turned as its EXIF orientation says; raises as :func:`decode` does."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        return _in_bytes(ImageOps.exif_transpose(opened))


def fitted(image: Any, channels: int, image_size: int) -> Decoded:
    """A Pillow image of 8 bits a channel brought to one size, as :func:`decode` says."""
    from PIL import Image, ImageOps

    image = image.convert(MODES[channels])
    enlarged = min(image.size) < image_size
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(image).reshape(image_size, image_size, channels)
    return Decoded(pixels.transpose(2, 0, 1), enlarged)


def _in_bytes(image: Any) -> Any:
    """A Pillow image of 8 bits a channel. Pillow's own conversion clips 16 bits at 255."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its values are of floating point, which have no fixed range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values have more than 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def fixed_order(count: int) -> Tensor:
    """A random order of so many samples that is always the same, (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def identify(settings: Mapping[str, Any]) -> str:
    """A short name of settings, for a file of what they make."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class ByteImages(Samples):
    """Some of many images that are held as bytes; a batch has them in [-1, 1].

    Args:
        images: uint8, (M, C, H, W); it may be mapped from a file, and only what is asked for is read.
        index: which of them the samples are, int64, (N,).
        parts: what is told of the samples, N of each: ``label``, ``caption``.
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
    """Clips whose frames are held as bytes, one after the other.

    Args:
        images: the frames, uint8, (M, C, H, W).
        index: the first frame of each clip, int64, (N,).
        parts: see :class:`ByteImages`.
        offsets: of the frames of a clip from its first, int64, (F,).
    """

    def __init__(self, images: Tensor, index: Tensor, parts: Mapping[str, Any], offsets: Tensor) -> None:
        super().__init__(images, index, parts)
        self.offsets = offsets

    def _pixels(self, index: Tensor) -> Tensor:
        frames = index[:, None] + self.offsets  # (B, F)
        x = super()._pixels(frames.flatten()).unflatten(0, frames.shape)  # (B, F, C, H, W)
        return x.transpose(1, 2).contiguous()  # (B, C, F, H, W)
