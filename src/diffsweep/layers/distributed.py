"""A test for training with several processes."""

import torch


def distributed() -> bool:
    """Return whether ``torch.distributed`` is initialised, so that sums must be reduced over all processes (ranks).

    Some builds of PyTorch have no ``torch.distributed``; the answer is False with them.
    """
    return torch.distributed.is_available() and torch.distributed.is_initialized()
