"""Normalisation layers."""

from torch import nn

MIN_CHANNELS_PER_GROUP = 4


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (arXiv:1803.08494) of 32 groups, or fewer where a group would have less than 4 channels.

    A group of one channel would be instance norm: it takes away whatever is constant over a feature map, and with it the
    time that residual blocks add there.
    """
    groups = (groups for groups in (32, 16, 8, 4, 2) if channels % groups == 0)
    return nn.GroupNorm(next((g for g in groups if channels // g >= MIN_CHANNELS_PER_GROUP), 1), channels)


def zero_init(module: nn.Module) -> nn.Module:
    """The same module with its parameters at 0, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
