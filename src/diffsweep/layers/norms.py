"""Norms: of groups of channels, large enough to keep the time embedding, and of tokens.

    GroupNorm(h)_c = gamma_c (h_c - mean_G) / sqrt(var_G + eps) + beta_c

where mean_G and var_G are over all positions of the channels in the group G of channel c (arXiv:1803.08494).
"""

from torch import Tensor, nn

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


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis (arXiv:1910.07467), in the type of its weights.

    Under autocast that is float32, as PyTorch casts LayerNorm on GPUs. RMSNorm it does not cast, and one of bfloat16
    numbers with float32 weights has no fused kernel and warns.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.weight is None else x.to(self.weight.dtype))


def token_norm(channels: int, rms: bool = False, affine: bool = True, eps: float = 1e-6) -> nn.Module:
    """Return a LayerNorm (arXiv:1607.06450), or an RMSNorm (arXiv:1910.07467), which does not subtract the mean.

    Args:
        channels: size of the last axis, which is normalised.
        rms: RMSNorm in place of LayerNorm.
        affine: the norm has learned weights.
        eps: added to the variance or the mean square.
    """
    return (RMSNorm if rms else nn.LayerNorm)(channels, eps=eps, elementwise_affine=affine)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to 0 and return it, so that a residual branch that ends with it starts as 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
