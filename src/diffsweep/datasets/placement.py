"""Decide whether the images of a split are kept on the training device, where batches are then made of them."""

from typing import Literal

import torch

from diffsweep.datasets.samples import Samples
from diffsweep.files import ContentError

OnDevice = bool | Literal["auto"]
SHARE = 0.25  # of the device's free memory, the most that one split takes by itself; the rest is for the network


def on_training_device(samples: Samples, on_device: OnDevice, device: torch.device) -> Samples | None:
    """Return the samples with their images on the training device, or None if they stay where they are.

    Args:
        samples: the samples of a split.
        on_device: False keeps the images where they are, True puts them on the device. With ``auto`` they are put on a
            GPU if they are stored (not drawn when they are requested) and take at most a quarter of its free memory.
        device: the training device.

    Raises:
        ContentError: ``on_device`` is True, and the images are not stored, or take more than the GPU's free memory.
    """
    size = samples.stored_bytes
    if not on_device or (on_device == "auto" and (size is None or device.type != "cuda")):
        return None
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    if on_device == "auto":
        return samples.to(device) if free is not None and size is not None and size <= SHARE * free else None
    if size is None:
        raise ContentError(
            "dataset.on_device=true puts stored images on the device, and this dataset draws them when they are "
            "requested; use dataset.on_device=auto"
        )
    if free is not None and size > free:
        raise ContentError(
            f"dataset.on_device=true: the images take {size / 2**30:.1f} GiB, and the device has {free / 2**30:.1f} "
            "GiB free; use dataset.on_device=auto"
        )
    return samples.to(device)
