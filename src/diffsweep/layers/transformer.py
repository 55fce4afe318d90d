"""Transformer blocks over tokens (B, N, C), with or without modulation by an embedding of time and condition.

A pre-norm block computes

    x <- x + g_1 Attention(N(x) (1 + s_1) + b_1)
    x <- x + CrossAttention(N(x), context)                 if the block has one
    x <- x + g_2 MLP(N(x) (1 + s_2) + b_2)

N is LayerNorm or RMSNorm. The shifts b, scales s and gates g follow from the embedding (adaLN, arXiv:2212.09748);
without modulation b = s = 0 and g = 1, and N has learned weights instead. A modulated block has no N before its
cross-attention, as in PixArt (arXiv:2310.00426).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.across_frames import AcrossFrames
from diffsweep.layers.conditions import TokenContext
from diffsweep.layers.injection import FeaturePlace, Injectable, fused, injectable_of, separate
from diffsweep.layers.norms import token_norm
from diffsweep.layers.patches import Rotation, rotate
from diffsweep.layers.recomputation import recomputed


def _head_channels(channels: int, heads: int) -> int:
    if heads < 1 or channels % heads:
        raise ValueError(f"backbone.num_heads={heads} does not divide backbone.channels={channels}")
    return channels // heads


def rotary_channels(channels: int, heads: int) -> int:
    """Return the number of channels of a head, channels / heads, if rotary positions can rotate them.

    They are rotated in groups of four: a pair by the row and a pair by the column.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or the number of channels of a head is no multiple of 4.
    """
    size = _head_channels(channels, heads)
    if size % 4:
        raise ValueError(
            f"backbone.rope needs heads of 4, 8, ... channels; {channels} channels in {heads} heads are {size} each"
        )
    return size


class SelfAttention(nn.Module):
    """Multi-head self-attention among tokens (arXiv:1706.03762).

    Args:
        channels: C of the tokens.
        heads: number of heads, which divides C; otherwise the constructor raises a ValueError.
        bias: the maps to queries, keys and values have a bias.
        qk_norm: RMSNorm of queries and keys in each head (arXiv:2302.05442), which bounds the logits of the softmax.
    """

    def __init__(self, channels: int, heads: int, bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, size = heads, _head_channels(channels, heads)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.norm_q, self.norm_k = (token_norm(size, rms=True) if qk_norm else nn.Identity() for _ in range(2))
        self.to_out = nn.Linear(channels, channels)

    @property
    def projections(self) -> tuple[FeaturePlace, ...]:
        return fused(self.to_qkv)

    def forward(self, x: Tensor, rotation: Rotation | None = None, across: AcrossFrames | None = None) -> Tensor:
        """Return the attention's output, of the shape of x.

        Args:
            x: tokens of images (B, N, C), or of the frames of clips (B F, N, C).
            rotation: cosines and sines of rotary angles, in the order of the tokens that attend to each other; None: no
                rotary positions.
            across: a rearrangement by which tokens of different frames of a clip attend to each other; None: only the N
                tokens of one row of x do.
        """
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
    """Multi-head attention of tokens x (B, N, C) to a context (B, L, C) (arXiv:1706.03762).

    Queries come from x, keys and values from the context. The mask (B, 1, 1, L) is True for the tokens of the context
    that may be attended to; None: all may. ``forward`` takes x, context and mask.

    Args:
        channels: C.
        heads: number of heads, which divides C; otherwise the constructor raises a ValueError.
        qk_norm: RMSNorm of queries and keys in each head.
    """

    def __init__(self, channels: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, size = heads, _head_channels(channels, heads)
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(channels, 2 * channels)
        self.norm_q, self.norm_k = (token_norm(size, rms=True) if qk_norm else nn.Identity() for _ in range(2))
        self.to_out = nn.Linear(channels, channels)

    @property
    def projections(self) -> tuple[FeaturePlace, ...]:
        return separate(self.to_q, self.to_kv)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D)
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, heads, L, D)
        out = functional.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, N, C)


def mlp(channels: int, hidden: int, out_channels: int, gelu: str = "tanh") -> nn.Sequential:
    """Return an MLP: a linear map from ``channels`` to ``hidden``, GELU, and a linear map to ``out_channels``.

    ``gelu=tanh`` is the approximation of GELU by a hyperbolic tangent, ``none`` the exact function.
    """
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, out_channels))


class SwiGLU(nn.Module):
    """A gated MLP from ``channels`` to ``channels``, W_out (silu(W_a x) * W_b x), with ``hidden`` channels inside.

    It is SwiGLU (arXiv:2002.05202), here with biases; * multiplies each channel.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(channels, 2 * hidden)
        self.linear_out = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.linear_in(x).chunk(2, dim=-1)
        return self.linear_out(functional.silu(a) * b)


class Modulation(nn.Module):
    """A linear map from an embedding to the shifts, scales and gates of a block (adaLN, arXiv:2212.09748).

    ``forward`` takes the embedding (B, C) and returns a tuple of ``count`` tensors (B, 1, C).
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(channels, count * channels), count

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(emb).unflatten(-1, (self.count, 1, -1)).unbind(1)


class ModulationTable(nn.Module):
    """Learned vectors of one block, added to a modulation that all blocks share (adaLN-single, arXiv:2310.00426).

    ``forward`` takes the shared modulation, (B, count, C) or (B, 1, C), and returns a tuple of ``count`` sums, which
    are shifts, scales and gates (B, 1, C).
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, channels) / channels**0.5)

    def forward(self, shared: Tensor) -> tuple[Tensor, ...]:
        return (self.table + shared).unsqueeze(2).unbind(1)


def modulated(h: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    """Return h (1 + scale) + shift for a modulation (shift, scale) or (shift, scale, gate), and h for an empty one."""
    return torch.addcmul(modulation[0], h, 1 + modulation[1]) if modulation else h


def gated(x: Tensor, h: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    """Return x + gate h for a modulation (shift, scale, gate), and x + h for one of fewer entries."""
    return torch.addcmul(x, h, modulation[2]) if len(modulation) > 2 else x + h


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, optional cross-attention, MLP, each with a residual connection.

    Tokens (B, N, C) keep their shape.

    Args:
        channels: C.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP divided by C; SwiGLU has 2/3 of that width, and so as many parameters.
        modulation: a module that computes from an embedding (the argument ``emb`` of ``forward``) the (shift, scale) or
            (shift, scale, gate) of the self-attention, then those of the MLP. With it the norms have no weights, and
            the cross-attention has no norm. None: norms with weights, and no gates.
        cross: add cross-attention to a context.
        qk_norm: RMSNorm of queries and keys.
        swiglu: SwiGLU in place of the MLP with GELU.
        rms_norm: RMSNorm in place of LayerNorm.
        qkv_bias: the maps to queries, keys and values of the self-attention have a bias.
        gelu: ``tanh`` (approximated) or ``none`` (exact).
        eps: added to the variances in the norms.

    Raises:
        ValueError: ``heads`` does not divide C, or ``mlp_ratio`` gives fewer than 2 hidden channels.
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
        modulation = () if self.modulation is None else self.modulation(emb)  # each (B, 1, C)
        first, second = modulation[: len(modulation) // 2], modulation[len(modulation) // 2 :]
        x = gated(x, self.attention(modulated(self.norm_attention(x), first), rotation, across), first)
        if self.cross is not None:
            x = x + self.cross(self.norm_cross(x), context, mask)
        return gated(x, self.mlp(modulated(self.norm_mlp(x), second)), second)

    def injectable(self, name: str, decodes: bool) -> list[Injectable]:
        """Return what can be changed in the block: see :func:`~diffsweep.layers.injectable_of`; the MLP is residual."""
        return injectable_of(name, decodes, self.mlp, [self.attention], [] if self.cross is None else [self.cross])


def run_block(block: nn.Module, checkpointing: bool, *inputs: Any, **keywords: Any) -> Tensor:
    """Return a block's output, called with the further arguments.

    With ``checkpointing``, if the block is in training mode, its activations are recomputed in the backward pass
    (arXiv:1604.06174). The random state is not restored for this, so the block must have no dropout.
    """
    if not (checkpointing and block.training):
        return block(*inputs, **keywords)
    # a block draws no random numbers, and saving the random state of a GPU would wait for the device
    return recomputed(block, *inputs, preserve_rng_state=False, **keywords)


class ContextEmbedding(nn.Module):
    """An MLP from the tokens of a condition (B, L, D) to the context (B, L, C) of cross-attention, and its mask.

    A learned null token, masked but for its first copy, replaces the tokens of samples that have none. The arguments of
    ``forward`` and the mask that it returns are those of :class:`~diffsweep.layers.TokenContext`.

    Args:
        context_dim: width D of the tokens.
        channels: width C of the context.
    """

    def __init__(self, context_dim: int, channels: int) -> None:
        super().__init__()
        self.mlp, self.context = mlp(context_dim, channels, channels), TokenContext(channels, once=True)

    def forward(
        self, tokens: Tensor | None, token_mask: Tensor | None, is_null: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        tokens = None if tokens is None else self.mlp(tokens.to(self.context.null.dtype))
        return self.context(tokens, token_mask, is_null, batch)
