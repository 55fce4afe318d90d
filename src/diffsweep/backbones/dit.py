"""Diffusion transformers: DiT (Peebles and Xie 2023, arXiv:2212.09748) and PixArt-alpha (Chen et al. 2024, arXiv:2310.00426)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.backbones.base import Backbone, TokenSizes, TransformerOptions
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    AcrossFrames,
    Block,
    Clips,
    ConditionEmbedding,
    ContextEmbedding,
    CrossAttention,
    Modulation,
    ModulationTable,
    PatchEmbedding,
    SinusoidalEmbedding,
    axial_rotation,
    modulated,
    patch_grid,
    run_block,
    sincos_positions,
    token_norm,
    unpatchify,
    with_image,
    zero_init,
)
from diffsweep.layers.patches import Rotation

AttentionLayout = tuple[Rotation | None, AcrossFrames | None]


class BlockType(NamedTuple):
    """How time and class enter the blocks.

    Attributes:
        in_sequence: as tokens before those of the image.
        in_context: as tokens that those of the image attend to.
        modulations: as shift and scale of both norms (4), and gates of both branches (6).
        zero: the modulations start at 0, and each block as the identity.
        shared: the modulations are computed once, and each block adds a table of its own.
    """

    in_sequence: bool = False
    in_context: bool = False
    modulations: int = 0
    zero: bool = False
    shared: bool = False


BLOCKS = {
    "in_context": BlockType(in_sequence=True),
    "cross_attention": BlockType(in_context=True),
    "adaln": BlockType(modulations=4),
    "adaln_zero": BlockType(modulations=6, zero=True),
    "adaln_single": BlockType(modulations=6, shared=True),
}


@dataclass(frozen=True, kw_only=True)
class DiTOptions(TransformerOptions, TokenSizes):
    """The options of a DiT: those of its blocks and of the condition."""


class DiT(Backbone):
    """A transformer over patches of the image, which the condition enters in one of five ways.

    Any image that the patch divides can be given: positions are sines and cosines of the grid at hand. Every block attends to the
    condition's tokens, where there are some (``context_dim``).

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x, which the patch must divide.
        block: the type of the blocks. ``in_context``: time and class are tokens of the sequence; ``cross_attention``: tokens that blocks
            attend to; ``adaln``: they shift and scale what norms give; ``adaln_zero``: and gate both branches, all from 0;
            ``adaln_single``: this is computed once for all blocks (PixArt-alpha).
        options: those of :class:`DiTOptions`.
    """

    Options = DiTOptions

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: int,
        *,
        block: Literal["in_context", "cross_attention", "adaln", "adaln_zero", "adaln_single"] = "adaln_zero",
        **options: Any,
    ) -> None:
        super().__init__()
        self.options, self.kind = DiTOptions(**options), BLOCKS[block]
        parts, kind, channels, context_dim = self.options, self.kind, self.options.channels, self.options.context_dim
        patch_grid(image_size, image_size, parts.patch_size)
        if channels % 4 or channels < 4:
            raise ValueError(
                f"backbone.channels must be a multiple of 4, for the sines of rows and columns, not {channels}"
            )
        if parts.depth < 1:
            raise ValueError(f"backbone.depth must be at least 1, not {parts.depth}")
        self.checkpointing, self.rope, self.accepts = parts.checkpointing, parts.rotary, parts.accepts
        self.embed_patches = PatchEmbedding(in_channels + parts.image_channels, channels, parts.patch_size)
        self.sinusoids = SinusoidalEmbedding(256)
        self.embed_time = nn.Sequential(nn.Linear(256, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.embed_condition = ConditionEmbedding(channels, **parts.of_vectors)
        self.embed_context = None if context_dim is None else ContextEmbedding(context_dim, channels)
        self.embed_shared = nn.Linear(channels, kind.modulations * channels) if kind.shared else None

        def modulation(count: int) -> nn.Module | None:
            return (ModulationTable if kind.shared else Modulation)(channels, count) if kind.modulations else None

        attends_to_context = kind.in_context or context_dim is not None
        self.blocks = nn.ModuleList(
            Block(**parts.block, modulation=modulation(kind.modulations), cross=attends_to_context)
            for _ in range(parts.depth)
        )
        self.modulation_out = modulation(2)
        self.norm_out = token_norm(channels, parts.rms_norm, affine=not kind.modulations)
        self.head = nn.Linear(channels, parts.patch_size**2 * out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """As published: Xavier for linear maps, 0.02 for embeddings, zeros for what must start as nothing."""
        embeddings = [self.embed_time, self.embed_condition, self.embed_context, self.embed_shared]
        narrow = {module for part in embeddings if part is not None for module in part.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module in narrow:
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, CrossAttention):
                zero_init(module.to_out)
            elif isinstance(module, Modulation) and self.kind.zero:
                zero_init(module)
        zero_init(self.head)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        cond = Condition() if cond is None else cond
        return self._images(x, self._told(c_noise, cond, x.dtype), cond)

    def _told(self, c_noise: Tensor, cond: Condition, dtype: torch.dtype) -> Tensor:
        """What is told of a sample as a whole, its time first, (B, 1 and as many as the condition has, C)."""
        vectors = [self.embed_time(self.sinusoids(c_noise).to(dtype)), *self.embed_condition(cond, len(c_noise))]
        return torch.stack(vectors, dim=1)

    def _images(self, x: Tensor, tokens: Tensor, cond: Condition, clips: Clips | None = None) -> Tensor:
        """The output for images (B, C, H, W), or for the frames of clips, of which ``tokens`` tell."""
        kind, grid = self.kind, patch_grid(x.shape[2], x.shape[3], self.options.patch_size)
        h = self.embed_patches(with_image(x, cond, self.options.image_channels))
        h = h + sincos_positions(grid, self.options.channels, x.device, x.dtype)  # (B, N, C)
        if kind.in_sequence:
            h = torch.cat([tokens, h], dim=1)
        extras = h.shape[1] - grid[0] * grid[1]
        emb, emb_out = self._embeddings(tokens.sum(dim=1))
        context, mask = self._context(tokens if kind.in_context else tokens[:, :0], cond)
        for block, attention in zip(self.blocks, self._attentions(grid, extras, h, clips), strict=True):
            h = run_block(block, self.checkpointing, h, emb, context, mask, *attention)
        h = h[:, extras:]
        modulation = () if self.modulation_out is None else self.modulation_out(emb_out)
        h = self.head(modulated(self.norm_out(h), modulation))  # (B, N, p p out_channels)
        return unpatchify(h, grid, self.options.patch_size)  # (B, out_channels, H, W)

    def _attentions(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips | None) -> list[AttentionLayout]:
        """Of each block, how its tokens are turned, and which of them attend to each other."""
        rotation = None if self.rope is None else axial_rotation(grid, self.rope, extras, h.device, h.dtype)
        return [(rotation, None)] * len(self.blocks)

    def _embeddings(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What the modulations of the blocks, and that of the last norm, are computed from."""
        emb = functional.silu(vector)  # once, not in every block
        if self.embed_shared is None:
            return emb, emb
        return self.embed_shared(emb).unflatten(-1, (self.kind.modulations, -1)), vector[:, None]

    def _context(self, tokens: Tensor, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """What the blocks attend to, (B, L, C): ``tokens``, then those of the condition; and a mask (B, 1, 1, L)."""
        if self.embed_context is None:
            return tokens, None
        context, mask = self.embed_context(cond.tokens, cond.token_mask, cond.is_null, len(tokens))
        mask = None if mask is None else functional.pad(mask, (tokens.shape[1], 0), value=True)
        return torch.cat([tokens, context], dim=1), mask
