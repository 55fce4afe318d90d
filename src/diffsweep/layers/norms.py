"""Normalisation layers."""

from torch import nn

MIN_CHANNELS_PER_GROUP = 4


def group_norm(channels: int, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm (arXiv:1803.08494) of ``groups`` groups, halved until each has at least 4 channels.

    A group of one channel would be instance norm: it takes away whatever is constant over a feature map, and with it the
    time that residual blocks add there.
    """
    halved = (groups >> times for times in range(groups.bit_length()) if channels % (groups >> times) == 0)
    return nn.GroupNorm(next((g for g in halved if channels // g >= MIN_CHANNELS_PER_GROUP), 1), channels, eps)


def zero_init(module: nn.Module) -> nn.Module:
    """The same module with its parameters at 0, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
