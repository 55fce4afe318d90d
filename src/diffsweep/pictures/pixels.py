"""Images as tensors in [-1, 1], and as pixels of image files and of .npz files."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from diffsweep.files import UNREADABLE_ARRAYS, ContentError


def to_uint8(x: Tensor) -> np.ndarray:
    """Return images in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C); clips (N, C, F, H, W) as (N, F, H, W, C).

    Values outside of [-1, 1] are clamped, and others rounded to the nearest of 256 levels.
    """
    pixels = ((x.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(rearrange(pixels.cpu(), "n c ... h w -> n ... h w c"))


def load_npz(path: Path) -> Tensor:
    """Return the images in the first array of an .npz file, as float32 values in [-1, 1].

    The array is uint8: images (N, H, W, C) are returned as (N, C, H, W), clips (N, F, H, W, C) as (N, C, F, H, W).

    Raises:
        ContentError: the file does not exist, cannot be read, or has another array; pickled objects are not read.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            array = content[content.files[0]]
    except FileNotFoundError as error:
        raise ContentError(f"{path}: no such file") from error
    except (*UNREADABLE_ARRAYS, IndexError) as error:
        raise ContentError(f"{path} is no .npz file of images that can be read; numpy.savez writes one") from error
    if not isinstance(array, np.ndarray):
        raise ContentError(f"{path} is no .npz file of images: it has other content; numpy.savez writes one")
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.size == 0:
        raise ContentError(
            f"{path} has {array.dtype} numbers of shape {array.shape} first; images are uint8 (N, H, W, C), and clips "
            "uint8 (N, F, H, W, C)"
        )
    return _from_uint8(array)


def _from_uint8(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(rearrange(pixels, "n ... h w c -> n c ... h w").astype(np.float32) / 127.5 - 1)
