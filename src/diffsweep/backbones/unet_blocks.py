"""The blocks that only U-Nets have: stages, ConvNeXt blocks, transformers of feature maps, and attention pooling."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers import (
    TIME_EMBEDDINGS,
    Attend,
    Clips,
    Norm,
    Pointwise,
    TimeEmbedding,
    embedded_norm,
    group_norm,
    residual_sum,
    shortcut,
    zero_init,
)


class ResidualStage(nn.Module):
    """A residual block, attention at the levels that have it, and attention over time where frames are those of clips.

    Attributes:
        width: channels that it puts out.
        temporal: what sees the frames of clips, after the rest; None in networks of images.
    """

    temporal: nn.Module | None

    def __init__(self, block: nn.Module, attention: nn.Module | None, width: int) -> None:
        super().__init__()
        self.block, self.attention, self.width, self.temporal = block, attention, width, None

    def forward(self, x: Tensor, emb: Tensor, *context: Tensor | None, clips: Clips | None = None) -> Tensor:
        h = self.block(x, emb)  # (B, C', H, W)
        h = h if self.attention is None else self.attention(h, *context)
        return h if self.temporal is None else self.temporal(h, clips)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7 convolution; the time's embedding; norm; 1 x 1 convolution to 4 C', GELU, dropout, 1 x 1 convolution
    (zero at first); plus the input (Liu et al. 2022, arXiv:2201.03545, told the time where it has its norm).

    Args: those of :class:`~diffsweep.layers.ResidualBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        dropout: float = 0.0,
        time_embedding: TimeEmbedding = "additive",
        norm: Norm = group_norm,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.depthwise = nn.Conv2d(in_channels, in_channels, 7, padding=3, groups=in_channels)
        self.embed = nn.Linear(embedding, TIME_EMBEDDINGS[time_embedding] * in_channels)
        self.norm = norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, 4 * out_channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(4 * out_channels, out_channels, 1))
        self.skip = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = embedded_norm(self.norm, self.depthwise(x), self.embed(emb))  # (B, C, H, W)
        h = self.conv_out(self.dropout(functional.gelu(self.conv_in(h))))  # (B, C', H, W)
        return residual_sum(self.skip(x), h, self.residual_scale)


class TokenAttention(nn.Module):
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
        self.self_attention = TokenAttention(channels, heads, attend=attend)
        self.cross_attention = TokenAttention(channels, heads, context_dim)
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


class AttentionPool2d(nn.Module):
    """The mean of a feature map attends to the map and itself: maps to vectors, (B, C, S, S) to (B, C) (CLIP, Radford et al. 2021,
    arXiv:2103.00020, section 2.4; ADM, arXiv:2105.05233).

    Only the mean asks, since nothing else is read of what attention puts out.

    Args:
        channels: C, divisible by ``heads``.
        size: S, which the learned positions belong to.
        heads: number of heads.
    """

    def __init__(self, channels: int, size: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} attention heads")
        self.heads, self.size = heads, size
        self.positions = nn.Parameter(torch.randn(1 + size**2, channels) / channels**0.5)
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"maps of {tuple(x.shape[2:])} to pool, where positions are learned for a side of {self.size}"
            )
        x = rearrange(x, "b c h w -> b (h w) c")
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions  # (B, 1 + S S, C)
        q = rearrange(self.to_q(x[:, :1]), "b l (n d) -> b n l d", n=self.heads)
        k, v = rearrange(self.to_kv(x), "b l (two n d) -> two b n l d", two=2, n=self.heads)
        out = functional.scaled_dot_product_attention(q, k, v)  # (B, N, 1, D)
        return rearrange(out, "b n 1 d -> b (n d)")
