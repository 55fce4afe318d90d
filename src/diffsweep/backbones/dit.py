"""Diffusion transformers: DiT (Peebles and Xie 2023, arXiv:2212.09748) and PixArt-alpha (arXiv:2310.00426).

An image (B, C, H, W) is cut into N patches of p x p pixels, which become tokens (B, N, C') with sinusoidal positions.
Transformer blocks, conditioned on time and class, map the tokens to tokens; a last linear layer maps each token to the
p x p pixels of its patch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.backbones.base import Backbone, Reuse, copied_without
from diffsweep.backbones.dit_options import BLOCKS, DiTOptions
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    AcrossFrames,
    Block,
    Clips,
    ConditionEmbedding,
    ContextEmbedding,
    CrossAttention,
    FirstHalf,
    Injectable,
    Modulation,
    ModulationTable,
    PatchEmbedding,
    SinusoidalEmbedding,
    axial_rotation,
    injectable_in,
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


class DiT(Backbone):
    """A transformer over patches of the image, which time and class enter in one of five ways (arXiv:2212.09748).

    Images x (B, in_channels, H, W) become (B, out_channels, H, W). The embeddings of the time and of the condition's
    class, features and numbers are summed for modulation, or are tokens of their own. If the condition has tokens
    (``context_dim``), every block has cross-attention to them, as in PixArt-alpha (arXiv:2310.00426).

    The published networks are options of the group ``backbone`` (files of ``conf/backbone``). Unlike in the public
    codes, the sinusoidal positions are computed for the grid of each image, so that any size that the patch divides can
    be given, and samples without tokens attend to a single learned null token.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x, which the patch must divide.
        block: how time and class enter the blocks. ``in_context``: as tokens before those of the image;
            ``cross_attention``: as tokens that the image attends to; ``adaln``: they shift and scale the outputs of the
            norms; ``adaln_zero``: they also gate both branches, with an initialisation at zero, so that each block
            starts as the identity; ``adaln_single``: shifts, scales and gates are computed once for all blocks, each
            of which adds a learned table (PixArt-alpha).
        options: the fields of :class:`DiTOptions`.

    Raises:
        ValueError: sizes that do not fit, such as a patch that does not divide ``image_size``.
    """

    Options = DiTOptions
    supports = frozenset({"aspect_ratios", "control", "cached_features"})
    provides = frozenset({"equal_blocks"})

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
        self.sinusoids = SinusoidalEmbedding(256, parts.time_endpoint)
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

    def equal_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    @property
    def side_multiple(self) -> int:
        """What must divide H and W of x: the side of a patch."""
        return self.options.patch_size

    def injectable(self) -> list[Injectable]:
        return injectable_in("blocks", self.blocks, decodes_from=len(self.blocks) // 2)

    def _initialise(self) -> None:
        """Initialise as published: Xavier for linear maps, std 0.02 for embeddings, zeros where branches start at 0."""
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

    @property
    def branches(self) -> int:
        """Half the number of blocks, rounded up."""
        return (len(self.blocks) + 1) // 2

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        cond = Condition() if cond is None else cond
        tokens = self._embed(c_noise, cond, x.dtype)
        output, deep = self._forward_images(x, tokens, cond, added=self.added(x, c_noise, cond), reuse=reuse)
        return output if reuse is None else (output, deep)

    def _embed(self, c_noise: Tensor, cond: Condition, dtype: torch.dtype) -> Tensor:
        """Return the embeddings of the time and of the V vectors of the condition, (B, 1 + V, C)."""
        vectors = [self.embed_time(self.sinusoids(c_noise).to(dtype)), *self.embed_condition(cond, len(c_noise))]
        return torch.stack(vectors, dim=1)

    def _forward_images(
        self,
        x: Tensor,
        tokens: Tensor,
        cond: Condition,
        clips: Clips | None = None,
        added: Sequence[Tensor] = (),
        reuse: Reuse | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the output for images, or for the frames of clips as images, (B, C, H, W), and the deep features.

        ``tokens`` are the embeddings of time and condition, (B, 1 + V, C); ``clips`` divides the frames into clips.
        ``added`` is added to the outputs of the first blocks.
        """
        h, deep, emb_out = self._through_blocks(x, tokens, cond, clips, added=added, reuse=reuse)
        grid = patch_grid(x.shape[2], x.shape[3], self.options.patch_size)
        h = h[:, h.shape[1] - grid[0] * grid[1] :]
        modulation = () if self.modulation_out is None else self.modulation_out(emb_out)
        h = self.head(modulated(self.norm_out(h), modulation))  # (B, N, p p out_channels)
        return unpatchify(h, grid, self.options.patch_size), deep  # (B, out_channels, H, W)

    def _through_blocks(
        self,
        x: Tensor,
        tokens: Tensor,
        cond: Condition,
        clips: Clips | None = None,
        hint: Tensor | None = None,
        added: Sequence[Tensor] = (),
        kept: list[Tensor] | None = None,
        reuse: Reuse | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of the last block, the deep features, and the input of the modulation of the last norm.

        The deep features are what the inner blocks add to their input, (B, N', C), as in Delta-DiT (arXiv:2406.01125);
        with ``reuse`` the inner blocks are all but the first and last ``reuse.branch`` ones. If the features are given,
        they are added in the place of these blocks.

        ``hint`` is added to the tokens of the patches, (B, N, C); the output of each block is appended to ``kept``.
        """
        kind, grid = self.kind, patch_grid(x.shape[2], x.shape[3], self.options.patch_size)
        h = self.embed_patches(with_image(x, cond, self.options.image_channels))
        h = h + sincos_positions(grid, self.options.channels, x.device, x.dtype)  # (B, N, C)
        h = h if hint is None else h + hint
        if kind.in_sequence:
            h = torch.cat([tokens, h], dim=1)
        extras = h.shape[1] - grid[0] * grid[1]
        emb, emb_out = self._embeddings(tokens.sum(dim=1))
        context, mask = self._context(tokens if kind.in_context else tokens[:, :0], cond)
        attentions = self._attentions(grid, extras, h, clips)
        blocks = list(enumerate(zip(self.blocks, attentions, strict=True)))

        def through(first: int, end: int, h: Tensor) -> Tensor:
            for number, (block, attention) in blocks[first:end]:
                h = run_block(block, self.checkpointing, h, emb, context, mask, *attention)
                h = h + added[number] if number < len(added) else h
                if kept is not None:
                    kept.append(h)
            return h

        count, reuse = len(blocks), self.reused(reuse)
        if reuse is None:
            h = through(0, count, h)
            return h, h, emb_out
        begin, end = reuse.branch, count - reuse.branch
        before = through(0, begin, h)
        h = through(begin, end, before) if reuse.features is None else before + reuse.features
        deep = h - before if reuse.features is None else reuse.features
        return through(end, count, h), deep, emb_out

    def first_half(self, x: Tensor, c_noise: Tensor, cond: Condition, hint: Tensor) -> list[Tensor]:
        """Return the outputs of all blocks, tokens (B, N', C), of images x (B, C, H, W).

        Args:
            x, c_noise, cond: the arguments of the network.
            hint: what is added to the tokens of the patches, as a map (B, C, H / p, W / p).
        """
        kept: list[Tensor] = []
        tokens = self._embed(c_noise, cond, x.dtype)
        self._through_blocks(x, tokens, cond, hint=hint.flatten(2).transpose(1, 2), kept=kept)
        return kept

    def copied_half(self, blocks: int | None = None) -> FirstHalf:
        count, size = (len(self.blocks) + 1) // 2 if blocks is None else blocks, self.options.channels
        if not 1 <= count <= len(self.blocks):
            raise ValueError(f"{count} blocks are to be copied, and the network has {len(self.blocks)}")
        network = copied_without(self, "modulation_out", "norm_out", "head")
        network.blocks = nn.ModuleList(network.get_submodule("blocks").children())[:count]
        return FirstHalf(network, [size] * count, size, self.options.patch_size, tokens=True)

    def _attentions(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips | None) -> list[AttentionLayout]:
        """Return for each block the rotary positions of its tokens, and which tokens of clips attend to each other."""
        rotation = None if self.rope is None else axial_rotation(grid, self.rope, extras, h.device, h.dtype)
        return [(rotation, None)] * len(self.blocks)

    def _embeddings(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the modulations of the blocks and of the modulation of the last norm."""
        emb = functional.silu(vector)  # once for all blocks
        if self.embed_shared is None:
            return emb, emb
        return self.embed_shared(emb).unflatten(-1, (self.kind.modulations, -1)), vector[:, None]

    def _context(self, tokens: Tensor, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """Return the context of cross-attention, (B, L, C), and its mask (B, 1, 1, L) or None.

        The context is ``tokens``, then the tokens of the condition.
        """
        if self.embed_context is None:
            return tokens, None
        context, mask = self.embed_context(cond.tokens, cond.token_mask, cond.is_null, len(tokens))
        mask = None if mask is None else functional.pad(mask, (tokens.shape[1], 0), value=True)
        return torch.cat([tokens, context], dim=1), mask
