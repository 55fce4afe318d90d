"""Images as tensors in [-1, 1], and as pixels of image files and of .npz files."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor


def to_uint8(x: Tensor) -> np.ndarray:
    """Return images in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C); clips (N, C, F, H, W) as (N, F, H, W, C).

    Values outside of [-1, 1] are clamped, and others rounded to the nearest of 256 levels.
    """
    pixels = ((x.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(rearrange(pixels.cpu(), "n c ... h w -> n ... h w c"))


def load_npz(path: Path) -> Tensor:
    """Return the images in the first array of an .npz file, as float32 values in [-1, 1].

    The array is uint8: images (N, H, W, C) are returned as (N, C, H, W), clips (N, F, H, W, C) as (N, C, F, H, W).
    """
    with np.load(path) as content:
        return _from_uint8(content[content.files[0]])


def _from_uint8(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(rearrange(pixels, "n ... h w c -> n c ... h w").astype(np.float32) / 127.5 - 1)
