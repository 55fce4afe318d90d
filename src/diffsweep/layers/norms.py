"""Group normalisation, with groups that are large enough to keep the time embedding.

    GroupNorm(h)_c = gamma_c (h_c - mean_G) / sqrt(var_G + eps) + beta_c

where mean_G and var_G are over all positions of the channels in the group G of channel c (arXiv:1803.08494).
"""

from torch import nn

MIN_CHANNELS_PER_GROUP = 4


def group_norm(channels: int, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a GroupNorm of at most ``groups`` groups, each of at least 4 channels where this is possible.

    The number of groups is ``groups``, halved until it divides the channels and leaves 4 in each group; it is 1 if no
    halving does. A group of one channel would be instance norm, which removes whatever is constant over a feature map,
    and with it the time embedding that residual blocks add to each channel.

    Args:
        channels: channels of the feature maps.
        groups: largest number of groups.
        eps: added to the variances.
    """
    halved = (groups >> times for times in range(groups.bit_length()) if channels % (groups >> times) == 0)
    return nn.GroupNorm(next((g for g in halved if channels // g >= MIN_CHANNELS_PER_GROUP), 1), channels, eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to 0 and return it, so that a residual branch that ends with it starts as 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
