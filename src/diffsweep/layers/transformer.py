"""Transformer blocks over tokens (B, N, C), and the tokens that conditions are."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.conditions import TokenContext
from diffsweep.layers.patches import Rotation, rotate
from diffsweep.layers.recomputation import recomputed
from diffsweep.layers.temporal import AcrossFrames


def token_norm(channels: int, rms: bool = False, affine: bool = True, eps: float = 1e-6) -> nn.Module:
    """LayerNorm (arXiv:1607.06450), or RMSNorm (arXiv:1910.07467), which does not subtract the mean."""
    return (nn.RMSNorm if rms else nn.LayerNorm)(channels, eps=eps, elementwise_affine=affine)


def _head_channels(channels: int, heads: int) -> int:
    if heads < 1 or channels % heads:
        raise ValueError(f"backbone.num_heads={heads} does not divide backbone.channels={channels}")
    return channels // heads


def rotary_channels(channels: int, heads: int) -> int:
    """Channels of a head, which are turned by fours: two for the row, two for the column."""
    size = _head_channels(channels, heads)
    if size % 4:
        raise ValueError(
            f"backbone.rope needs heads of 4, 8, ... channels; {channels} channels in {heads} heads are {size} each"
        )
    return size


class SelfAttention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762).

    Args:
        channels: C.
        heads: number of heads, which divides C.
        bias: queries, keys and values have a bias.
        qk_norm: RMSNorm of queries and keys in each head (arXiv:2302.05442): what the softmax sees stays bounded.
    """

    def __init__(self, channels: int, heads: int, bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, size = heads, _head_channels(channels, heads)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.norm_q, self.norm_k = (token_norm(size, rms=True) if qk_norm else nn.Identity() for _ in range(2))
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, rotation: Rotation | None = None, across: AcrossFrames | None = None) -> Tensor:
        """Of tokens (B, N, C); with ``across`` of those of frames, (B F, N, C), and the rotation is of the tokens that are joined."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each (B, heads, N, D)
        q, k = self.norm_q(q), self.norm_k(k)
        if across is not None:
            q, k, v = (across.gather(part) for part in (q, k, v))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=None if across is None else across.mask)
        out = out if across is None else across.scatter(out)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, N, C)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (B, N, C) to a context (B, L, C); ``mask`` (B, 1, 1, L) is True where it may look."""

    def __init__(self, channels: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, size = heads, _head_channels(channels, heads)
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(channels, 2 * channels)
        self.norm_q, self.norm_k = (token_norm(size, rms=True) if qk_norm else nn.Identity() for _ in range(2))
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D)
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, heads, L, D)
        out = functional.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, N, C)


def mlp(channels: int, hidden: int, out_channels: int, gelu: str = "tanh") -> nn.Sequential:
    """Linear, GELU (``tanh``: approximated; ``none``: exact), linear."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, out_channels))


class SwiGLU(nn.Module):
    """W_out (silu(W_a x) * W_b x) (arXiv:2002.05202)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(channels, 2 * hidden)
        self.linear_out = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.linear_in(x).chunk(2, dim=-1)
        return self.linear_out(functional.silu(a) * b)


class Modulation(nn.Module):
    """``count`` vectors (B, 1, C) from an embedding (B, C), by one linear map (adaLN, arXiv:2212.09748)."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(channels, count * channels), count

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(emb).unflatten(-1, (self.count, 1, -1)).unbind(1)


class ModulationTable(nn.Module):
    """``count`` learned vectors, plus what all blocks share, (B, count or 1, C) (adaLN-single, arXiv:2310.00426)."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, channels) / channels**0.5)

    def forward(self, shared: Tensor) -> tuple[Tensor, ...]:
        return (self.table + shared).unsqueeze(2).unbind(1)


def modulated(h: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    """h (1 + scale) + shift, or h where there are none."""
    return torch.addcmul(modulation[0], h, 1 + modulation[1]) if modulation else h


def gated(x: Tensor, h: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    """x + gate h, where (shift, scale) come with a gate; else x + h."""
    return torch.addcmul(x, h, modulation[2]) if len(modulation) > 2 else x + h


class Block(nn.Module):
    """Self-attention, cross-attention where wanted, MLP; each normed before and added to what came in.

    Args:
        channels: C.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over C; SwiGLU has 2/3 of it, and so as many parameters.
        modulation: gives (shift, scale) or (shift, scale, gate), of the attention and of the MLP, from ``emb``; norms are without
            weights then, and there is none before the cross-attention, as in PixArt.
        cross: attend to a context.
        qk_norm: RMSNorm of queries and keys.
        swiglu: SwiGLU in place of GELU.
        rms_norm: RMSNorm in place of LayerNorm.
        qkv_bias: queries, keys and values of the self-attention have a bias.
        gelu: ``tanh`` or ``none``.
        eps: of the norms.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        mlp_ratio: float = 4.0,
        modulation: nn.Module | None = None,
        cross: bool = False,
        qk_norm: bool = False,
        swiglu: bool = False,
        rms_norm: bool = False,
        qkv_bias: bool = True,
        gelu: str = "tanh",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        affine, hidden = modulation is None, int(mlp_ratio * channels)
        if hidden < 2:
            raise ValueError(f"backbone.mlp_ratio={mlp_ratio} leaves nothing of {channels} channels; use 4")
        self.modulation = modulation
        self.norm_attention = token_norm(channels, rms_norm, affine, eps)
        self.attention = SelfAttention(channels, heads, qkv_bias, qk_norm)
        self.norm_cross = token_norm(channels, rms_norm, affine, eps) if cross and affine else nn.Identity()
        self.cross = CrossAttention(channels, heads, qk_norm) if cross else None
        self.norm_mlp = token_norm(channels, rms_norm, affine, eps)
        self.mlp = SwiGLU(channels, 2 * hidden // 3) if swiglu else mlp(channels, hidden, channels, gelu)

    def forward(
        self,
        x: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        across: AcrossFrames | None = None,
    ) -> Tensor:
        modulation = () if self.modulation is None else self.modulation(emb)  # of (B, 1, C)
        first, second = modulation[: len(modulation) // 2], modulation[len(modulation) // 2 :]
        x = gated(x, self.attention(modulated(self.norm_attention(x), first), rotation, across), first)
        if self.cross is not None:
            x = x + self.cross(self.norm_cross(x), context, mask)
        return gated(x, self.mlp(modulated(self.norm_mlp(x), second)), second)


def run_block(block: nn.Module, checkpointing: bool, *inputs: Any, **keywords: Any) -> Tensor:
    """The block's output; in training with ``checkpointing`` its inside is not kept but computed again (arXiv:1604.06174)."""
    if not (checkpointing and block.training):
        return block(*inputs, **keywords)
    # nothing in a block is random, and saving a GPU's random state would wait for it
    return recomputed(block, *inputs, preserve_rng_state=False, **keywords)


class ContextEmbedding(nn.Module):
    """Tokens (B, L, D) by an MLP to a context (B, L, C), with its mask for SDPA: see :class:`~diffsweep.layers.TokenContext`."""

    def __init__(self, context_dim: int, channels: int) -> None:
        super().__init__()
        self.mlp, self.context = mlp(context_dim, channels, channels), TokenContext(channels, once=True)

    def forward(
        self, tokens: Tensor | None, token_mask: Tensor | None, is_null: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        tokens = None if tokens is None else self.mlp(tokens.to(self.context.null.dtype))
        return self.context(tokens, token_mask, is_null, batch)
