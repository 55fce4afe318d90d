"""The blocks of U-Nets: residual stages, ConvNeXt blocks, transformers over feature maps, attention pooling."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers import (
    TIME_EMBEDDINGS,
    Attend,
    Clips,
    FeaturePlace,
    Injectable,
    Norm,
    Pointwise,
    SelfAttention2d,
    TimeEmbedding,
    embedded_norm,
    group_norm,
    injectable_of,
    residual_sum,
    separate,
    shortcut,
    zero_init,
)


class ResidualStage(nn.Module):
    """A residual block, followed by attention over space and by layers over time, if the network has them.

    ``forward`` takes maps x (B, C, H, W) and the embedding of time and condition, then the context of cross-attention
    and its mask, if any, and for clips their division into frames.

    Attributes:
        width: channels C' of the output, (B, C', H, W).
        temporal: a layer over the frames of clips, called with (h, clips) at the end; None in networks of images.
    """

    temporal: nn.Module | None

    def __init__(self, block: nn.Module, attention: nn.Module | None, width: int) -> None:
        super().__init__()
        self.block, self.attention, self.width, self.temporal = block, attention, width, None

    def forward(self, x: Tensor, emb: Tensor, *context: Tensor | None, clips: Clips | None = None) -> Tensor:
        h = self.block(x, emb)  # (B, C', H, W)
        h = h if self.attention is None else self.attention(h, *context)
        return h if self.temporal is None else self.temporal(h, clips)

    def injectable(self, name: str, decodes: bool) -> list[Injectable]:
        """Return what can be changed in the stage, which has a name in its network.

        ``residual`` is what the residual block adds to its skip connection; attention over time is left out.
        ``decodes`` states whether the stage is on the way up.
        """
        layer, to_self, to_context = self.attention, list[SelfAttention2d | TokenAttention](), list[TokenAttention]()
        if isinstance(layer, SelfAttention2d):
            to_self.append(layer)
        elif isinstance(layer, SpatialTransformer):
            blocks = [block for block in layer.blocks if isinstance(block, TransformerBlock)]
            to_self += [block.self_attention for block in blocks]
            to_context += [block.cross_attention for block in blocks]
        return injectable_of(name, decodes, self.block.get_submodule("conv_out"), to_self, to_context)


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022, arXiv:2201.03545) that is conditioned on the time at its norm.

    Depthwise 7 x 7 convolution; norm with the time embedding; 1 x 1 convolution to 4 C' channels; GELU; dropout; 1 x 1
    convolution to C', initially zero; plus the input. Maps (B, C, H, W) become (B, C', H, W).

    Args:
        in_channels: C.
        out_channels: C'.
        embedding: size of the time embedding, to which a condition may have been added.
        dropout: dropout rate before the last convolution.
        time_embedding: ``additive``: added before the norm; ``scale_shift``: scales and shifts the norm's output.
        norm: makes a norm for a number of channels.
        residual_scale: factor of the sum of both branches.
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
    """Multi-head attention of a sequence (B, L, C) to itself, or to a context (B, L', D).

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads N.
        context_dim: D of the context, from which keys and values are computed; None: self-attention.
        attend: computes the attention from q (B, N, L, C / N) and k, v (B, N, L', C / N). Calls with a mask use
            PyTorch's scaled dot product instead.
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

    @property
    def projections(self) -> tuple[FeaturePlace, ...]:
        return separate(self.to_q, self.to_kv)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q = rearrange(self.to_q(x), "b l (n d) -> b n l d", n=self.heads)
        kv = self.to_kv(x if context is None else context)
        k, v = rearrange(kv, "b l (two n d) -> two b n l d", two=2, n=self.heads)
        attend = self.attend if mask is None else partial(functional.scaled_dot_product_attention, attn_mask=mask)
        out = attend(q, k, v)  # (B, N, L, D)
        return self.to_out(rearrange(out, "b n l d -> b l (n d)"))


class GEGLU(nn.Module):
    """A gated layer a * GELU(b), where a and b are linear maps of the input (Shazeer 2020, arXiv:2002.05202).

    The last axis of the input has ``in_features`` channels, that of a, b and the output ``out_features``.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.project(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class TransformerBlock(nn.Module):
    """A block of self-attention, cross-attention and an MLP of width 4 C, each with a norm before it and a residual.

    Tokens (B, L, C) keep their shape. They attend to themselves by ``attend`` (a function of q, k and v), and to a
    context of width ``context_dim`` by the scaled dot product, with a mask if one is given.
    """

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
    """Transformer blocks over the H x W positions of a feature map, as a residual layer (arXiv:2112.10752).

    The blocks stand between two linear projections, and the input (B, C, H, W) is added to the result (Rombach et al.
    2021). Each block has self-attention and cross-attention to a context. The layer starts as its input times
    ``residual_scale``.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads N.
        context_dim: D of the context (B, L, D).
        depth: number of blocks.
        attend: computes the self-attention from q, k and v, each (B, N, H W, C / N).
        groups: largest number of groups of the norm.
        residual_scale: factor of the sum of the input and the branch.
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
    """A pooling of feature maps (B, C, S, S) to vectors (B, C) by attention (CLIP, arXiv:2103.00020, section 2.4).

    The mean over the S x S positions is a further token; the result is the output of multi-head attention for the
    query of this token, with all 1 + S^2 tokens as keys and values and learned positions (Radford et al. 2021; in
    ADM's classifiers, arXiv:2105.05233). Other queries are not computed, since their outputs are not used.

    Args:
        channels: C, divisible by ``heads``.
        size: side S of the maps; the learned positions allow no other.
        heads: number of heads.

    Raises:
        ValueError: ``heads`` does not divide C; in ``forward``, the maps have another side.
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
                f"attention pooling of maps of side {self.size} was given {tuple(x.shape[2:])}; use images of "
                "the size that the network was built for"
            )
        x = rearrange(x, "b c h w -> b (h w) c")
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions  # (B, 1 + S S, C)
        q = rearrange(self.to_q(x[:, :1]), "b l (n d) -> b n l d", n=self.heads)
        k, v = rearrange(self.to_kv(x), "b l (two n d) -> two b n l d", two=2, n=self.heads)
        out = functional.scaled_dot_product_attention(q, k, v)  # (B, N, 1, D)
        return rearrange(out, "b n 1 d -> b (n d)")
