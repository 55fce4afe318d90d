"""Images that other programs have made, from folders and ``.npz`` files, as the metrics take them."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsweep import shell
from diffsweep.datasets.images import MODES, SUFFIXES, read_image
from diffsweep.errors import UserError
from diffsweep.files import UNREADABLE_ARRAYS, read_bytes
from diffsweep.metrics.reference_statistics import SUFFIX

LEVELS = 127.5  # a level v of 256 is v / 127.5 - 1


class ImageSet:
    """The images of a folder, with its subfolders, or of an ``.npz`` file; they are read in batches, in a fixed order.

    Images of a folder are in the order of their paths. Those of an ``.npz`` file are its array ``arr_0``, uint8 of
    shape (N, H, W, C), as ``sample.py`` and public codes write it.

    Args:
        key: the key of the command that names the place, such as ``images``, for messages.
        place: the folder or the file.
        channels: the number of channels that the images are converted to, 1 or 3; None leaves grey ones grey.

    Attributes:
        fingerprint: a SHA-256 of the shapes and pixels of all images in their order, once they were read; else "".

    Raises:
        UserError: nothing is at the place, it has no images, or its array is none of images.
    """

    fingerprint = ""

    def __init__(self, key: str, place: str, channels: int | None = None) -> None:
        self.key, self.path, self.channels = key, Path(place), channels
        self.files: list[Path] = []
        self.array: np.ndarray | None = None
        shown = f"{key}={shell.shown(self.path)}"
        if self.path.is_dir():
            self.files = sorted(path for path in self.path.rglob("*") if path.suffix.lower() in SUFFIXES)
            if not self.files:
                raise UserError(f"{shown}: the folder has no images ({', '.join(sorted(SUFFIXES))})")
        elif self.path.suffix == SUFFIX and self.path.is_file():
            self.array = self._array(shown)
        else:
            what = "is neither a folder nor an .npz file" if self.path.exists() else "no such folder or file"
            raise UserError(f"{shown}: {what}; give a folder of images, or an .npz file with images as arr_0")

    def __len__(self) -> int:
        return len(self.files) if self.array is None else len(self.array)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the images in order as float32 in [-1, 1], (B, C, H, W), with at most ``size`` in a batch.

        The images of a batch have one shape, so a folder of mixed sizes gives smaller batches.

        Raises:
            UserError: a file of a folder is no image that can be read.
        """
        waiting: list[Tensor] = []
        digest = hashlib.sha256()
        for image in self._images():
            digest.update(f"{tuple(image.shape)}".encode())
            digest.update(image.contiguous().numpy().tobytes())
            if waiting and (len(waiting) == size or image.shape != waiting[0].shape):
                yield _scaled(waiting)
                waiting = []
            waiting.append(image)
        self.fingerprint = digest.hexdigest()
        yield _scaled(waiting)

    def count(self, size: int) -> int:
        """Return the number of batches if all images have one shape."""
        return math.ceil(len(self) / size)

    def first(self, most: int) -> Tensor:
        """Return the first images as float32 in [-1, 1], (N, C, H, W): at most ``most``, and of one shape."""
        return next(self.batches(most))

    def _images(self) -> Iterator[Tensor]:
        """Yield images as uint8 tensors (C, H, W)."""
        if self.array is not None:
            for image in self.array:
                channels = self.channels or image.shape[2]
                yield _image(image, image.shape[2], channels)
            return
        for path in self.files:
            try:
                picture = read_image(read_bytes(path))
                grey = picture.mode in ("1", "L")
                channels = self.channels or (1 if grey else 3)
                pixels = np.asarray(picture.convert(MODES[channels]))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"{self.key}: {shell.shown(path)} is no image that can be read ({reason})") from error
            yield torch.from_numpy(pixels.copy().reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)

    def _array(self, shown: str) -> np.ndarray:
        """Return the array of images of the ``.npz`` file.

        Raises:
            UserError: the file cannot be read, or has none.
        """
        try:
            with np.load(self.path, allow_pickle=False) as content:
                names = content.files
                array = content["arr_0"] if "arr_0" in names else None
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{shown} is no .npz file that can be read; write one by numpy.savez") from error
        if not isinstance(array, np.ndarray):
            raise UserError(f"{shown} has the arrays {', '.join(names) or 'none'}, and images are needed as arr_0")
        if array.ndim != 4 or array.dtype != np.uint8 or array.shape[3] not in MODES or len(array) == 0:
            raise UserError(
                f"{shown}: arr_0 is {array.dtype} of shape {array.shape}, and images are uint8 (N, H, W, C) with 1 or "
                "3 channels"
            )
        return array


def _image(pixels: np.ndarray, own: int, channels: int) -> Tensor:
    """Return uint8 pixels (H, W, C) with the given number of channels as a tensor (C, H, W)."""
    from PIL import Image

    if own != channels:
        flat = pixels[..., 0] if own == 1 else pixels
        pixels = np.array(Image.fromarray(flat).convert(MODES[channels]))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _scaled(images: list[Tensor]) -> Tensor:
    return torch.stack(images).float() / LEVELS - 1
