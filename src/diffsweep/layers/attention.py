"""Attention over the positions of a feature map."""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.residual import Norm, residual_sum

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Efficient attention (Shen et al. 2018, arXiv:1812.01243): softmax of q over features times softmax of k over positions.

    The weights of each query are positive and sum to 1, as those of full attention; the cost is linear in the positions.
    Tensors are (B, N, L, D).
    """
    return q.softmax(dim=-1) @ (k.softmax(dim=-2).mT @ v)


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution of tokens (B, L, C): one matrix product, where a convolution would first move the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.flatten(1), self.bias)


class SelfAttention2d(nn.Module):
    """Residual multi-head self-attention over H x W, through SDPA (arXiv:1706.03762).

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
        attend: the attention of q, k and v, each (B, N, L, D).
        norm: makes the norm.
        residual_scale: what the sum with the input is multiplied by.
        zero: whether the last convolution is zero at first, and the layer the identity.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        attend: Attend = functional.scaled_dot_product_attention,
        norm: Norm = group_norm,
        residual_scale: float = 1.0,
        zero: bool = True,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} attention heads")
        self.heads, self.attend, self.residual_scale = heads, attend, residual_scale
        self.norm = norm(channels)
        self.to_qkv = Pointwise(channels, 3 * channels)
        to_out = Pointwise(channels, channels)
        self.to_out = zero_init(to_out) if zero else to_out

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(rearrange(self.norm(x), "b c h w -> b (h w) c"))  # (B, H W, 3 C)
        q, k, v = rearrange(qkv, "b l (three n d) -> three b n l d", three=3, n=self.heads)
        out = self.attend(q, k, v)  # (B, N, H W, D)
        out = self.to_out(rearrange(out, "b n l d -> b l (n d)"))
        return residual_sum(x, rearrange(out, "b (h w) c -> b c h w", h=x.shape[2]), self.residual_scale)
