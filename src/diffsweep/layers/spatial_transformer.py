"""Transformer blocks that attend to a context."""

from functools import partial

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.attention import Attend, Pointwise
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.residual import residual_sum


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself, or with a ``context_dim`` to another: its keys and values.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
        context_dim: D of the other sequence; None for self-attention.
        attend: the attention of q, k and v, each (B, N, L, D), where there is no mask.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int | None = None,
        attend: Attend = functional.scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(context_dim or channels, 2 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q = rearrange(self.to_q(x), "b l (n d) -> b n l d", n=self.heads)
        kv = self.to_kv(x if context is None else context)
        k, v = rearrange(kv, "b l (two n d) -> two b n l d", two=2, n=self.heads)
        attend = self.attend if mask is None else partial(functional.scaled_dot_product_attention, attn_mask=mask)
        out = attend(q, k, v)  # (B, N, L, D)
        return self.to_out(rearrange(out, "b n l d -> b l (n d)"))


class GEGLU(nn.Module):
    """a GELU(b), where a and b are linear in the input (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.project(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context and a feed-forward network of 4 C, each after a norm and added to its input."""

    def __init__(self, channels: int, heads: int, context_dim: int, attend: Attend) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_forward = (nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, heads, attend=attend)
        self.cross_attention = Attention(channels, heads, context_dim)
        self.feed_forward = nn.Sequential(GEGLU(channels, 4 * channels), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attention(self.norm_self(x))
        x = x + self.cross_attention(self.norm_cross(x), context, mask)
        return x + self.feed_forward(self.norm_forward(x))  # (B, L, C)


class SpatialTransformer(nn.Module):
    """Transformer blocks over H x W, between two projections, plus the input (Rombach et al. 2021, arXiv:2112.10752); the
    identity at initialisation.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
        context_dim: D of the tokens that each block attends to.
        depth: number of blocks.
        attend: the self-attention of q, k and v, each (B, N, L, D).
        groups: groups of the norm, at most.
        residual_scale: what the sum with the input is multiplied by.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        depth: int = 1,
        attend: Attend = functional.scaled_dot_product_attention,
        groups: int = 32,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.norm = group_norm(channels, groups, eps=1e-6)
        self.proj_in = Pointwise(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context_dim, attend) for _ in range(depth))
        self.proj_out = zero_init(Pointwise(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))  # (B, H W, C)
        for block in self.blocks:
            h = block(h, context, mask)
        return residual_sum(x, rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2]), self.residual_scale)
