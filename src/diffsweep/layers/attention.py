"""Multi-head self-attention over the positions of a feature map (arXiv:1706.03762).

Each of the L = H W positions has, in every head, a query q_i, a key k_i and a value v_i of D channels. The output is

    out_i = sum_j w_ij v_j,    w_ij = exp(q_i . k_j / sqrt(D)) / sum_l exp(q_i . k_l / sqrt(D)),

a mean of the values whose weights are positive and sum to 1. Its cost grows as L^2. In :func:`linear_attention` the
weights are softmax_D(q) softmax_L(k)^T, which can be applied without the L x L matrix, so that the cost grows as L.
"""

from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.injection import FeaturePlace, fused
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.residual import Norm, residual_sum

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return efficient attention (Shen et al. 2018, arXiv:1812.01243), whose cost is linear in the positions.

    It is softmax_D(q) (softmax_L(k)^T v): the softmax of q is over its D channels, that of k over the L positions. The
    weights softmax_D(q) softmax_L(k)^T of each query are positive and sum to 1, as those of full attention are.

    Args:
        q, k, v: queries, keys and values, each (B, N, L, D) with N heads.

    Returns:
        (B, N, L, D), with the channels of v.
    """
    return q.softmax(dim=-1) @ (k.softmax(dim=-2).mT @ v)


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that is applied to tokens (B, L, C) and returns tokens (B, L, C').

    Its weight has the shape of a convolution's, (C', C, 1, 1), but it is computed as one matrix product, without moving
    the channels to the second axis.

    Args:
        in_channels: C.
        out_channels: C'.
        args, settings: further arguments of ``nn.Conv2d``, such as ``bias``, as libraries give them that make a layer
            of the same class (peft does). They must be those of a 1 x 1 convolution.

    Raises:
        ValueError: they describe another convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **settings: Any) -> None:
        super().__init__(in_channels, out_channels, *(args or (1,)), **settings)
        if (self.kernel_size, self.stride, self.padding, self.groups) != ((1, 1), (1, 1), (0, 0), 1):
            raise ValueError("a Pointwise layer is a 1 x 1 convolution of stride 1, without padding and groups")

    def forward(self, input: Tensor) -> Tensor:
        # Strided tokens would be multiplied by another kernel where the weight is frozen: a copy has the same bits.
        return functional.linear(input.contiguous(), self.weight.flatten(1), self.bias)


class SelfAttention2d(nn.Module):
    """A residual layer of multi-head self-attention over the H x W positions of a feature map (arXiv:1706.03762).

    Maps x (B, C, H, W) become (x + W_out attention(W_qkv norm(x))) residual_scale, of the same shape.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads N.
        attend: computes the attention from q, k and v, each (B, N, H W, C / N); by default PyTorch's scaled dot
            product.
        norm: makes the norm for C channels.
        residual_scale: factor of the sum of the input and the attention's output.
        zero: initialise W_out to zero, so that the layer starts as x residual_scale.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
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

    @property
    def projections(self) -> tuple[FeaturePlace, ...]:
        return fused(self.to_qkv)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(rearrange(self.norm(x), "b c h w -> b (h w) c"))  # (B, H W, 3 C)
        q, k, v = rearrange(qkv, "b l (three n d) -> three b n l d", three=3, n=self.heads)
        out = self.attend(q, k, v)  # (B, N, H W, D)
        out = self.to_out(rearrange(out, "b n l d -> b l (n d)"))
        return residual_sum(x, rearrange(out, "b (h w) c -> b c h w", h=x.shape[2]), self.residual_scale)
