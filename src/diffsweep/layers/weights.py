"""A hash that identifies the weights of a network."""

import hashlib

import torch
from torch import nn


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of the names and bytes of all saved parameters and buffers of a module.

    It does not depend on the device, but on the dtype.
    """
    weights, digest = module.state_dict(), hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
