"""A single image file as a sample of a model: what it starts from, or what it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.images import UnreadableImageError, fitted, read_image
from diffsweep.errors import UserError
from diffsweep.files import read_bytes

ROUNDING = 8  # levels of 256 by which the channels of a grey image may differ, after lossy compression


def load_image(path: Path, channels: int, image_size: int, key: str) -> Tensor:
    """Return an image file as every dataset of files reads it, (C, H, W) in [-1, 1], but refuse to drop its colours.

    Args:
        path: the file.
        channels: C, 1 (grey) or 3 (RGB).
        image_size: H and W, to which the image is cut and resized.
        key: the key of the configuration that names the file, for messages.

    Raises:
        UserError: the image cannot be read, or it is coloured and C is 1.
    """
    try:
        image = read_image(read_bytes(path))
    except (OSError, UnreadableImageError) as error:
        raise UserError(f"{key}: {path} is no readable image: {getattr(error, 'strerror', None) or error}") from error
    if channels == 1 and _is_coloured(image):
        raise UserError(
            f"{key}: {path} is coloured, and the model's images are grey, so its colours would be lost; give a "
            "grey copy, such as Pillow's image.convert('L') makes"
        )
    pixels = fitted(image, channels, image_size).pixels
    return torch.from_numpy(pixels.copy()).float() / 127.5 - 1


def _is_coloured(image: Any) -> bool:
    """Return whether a Pillow image has pixels whose channels differ by more than a lossy file's rounding."""
    if image.mode != "RGB":
        return False
    pixels = np.asarray(image).astype(np.int16)
    return bool((pixels.max(-1) - pixels.min(-1)).max() > ROUNDING)
