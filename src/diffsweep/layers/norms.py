"""Normalisation layers."""

import math

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or of as many as divide both 32 and ``channels``."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zero_init(module: nn.Module) -> nn.Module:
    """The same module with its parameters at 0, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
