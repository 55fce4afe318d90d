"""Copies of tensors from the CPU to another device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the copy of a CPU tensor to a GPU is only begun, without waiting for its end.

    A tensor that is on the device already is returned unchanged.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
