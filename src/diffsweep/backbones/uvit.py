"""U-ViT, a vision transformer with long skip connections (Bao et al. 2023, arXiv:2209.12152).

Time, condition and the N patches of an image are tokens of one sequence with learned positions. Transformer blocks map
the sequence to itself; the last blocks also read the outputs of the first ones. A linear layer maps each patch's token
to the p x p pixels of the patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.backbones.base import Backbone, ConditionSizes, Reuse, TransformerOptions
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    Block,
    ConditionEmbedding,
    Injectable,
    PatchEmbedding,
    SinusoidalEmbedding,
    axial_rotation,
    injectable_in,
    patch_grid,
    run_block,
    token_norm,
    unpatchify,
    with_image,
    zero_init,
)
from diffsweep.layers.patches import Rotation


class SkipBlock(Block):
    """A transformer block whose input is a linear map of the tokens x and of the output ``skip`` of an early block.

    Both are (B, N, C), as is the output. ``settings`` are the other arguments of :class:`~diffsweep.layers.Block`.
    """

    def __init__(self, channels: int, heads: int, **settings: Any) -> None:
        super().__init__(channels, heads, **settings)
        self.merge = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor, rotation: Rotation | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(self.merge(torch.cat([x, skip], dim=-1)), rotation=rotation)


@dataclass(frozen=True, kw_only=True)
class UViTOptions(TransformerOptions, ConditionSizes):
    """The options of a U-ViT: those of its blocks, the sizes of the condition's parts that it reads, and these.

    Attributes:
        depth: number of blocks, odd: as many blocks lie before the middle one as after it.
        conv: apply a 3 x 3 convolution to the output image.
    """

    depth: int = 5
    conv: bool = True


class UViT(Backbone):
    """A transformer over time, class and patches with long skip connections, (B, C, H, W) to (B, out_channels, H, W).

    The output of block i is joined to the input of block depth + 1 - i, for all blocks i before the middle one. The
    published networks are options of the group ``backbone`` (files of ``conf/backbone``); ``depth`` counts all blocks,
    13 for the paper's 12 and the middle one (Bao et al. 2023, arXiv:2209.12152).

    Differences from the public code: the learned positions are interpolated bicubically to other grids than that of
    ``image_size``, so that any image that the patch divides can be given; and the last layer starts at 0.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x, which the patch must divide.
        options: the fields of :class:`UViTOptions`.

    Raises:
        ValueError: the patch does not divide ``image_size``, ``depth`` is even, or ``channels`` is odd.
    """

    Options = UViTOptions
    supports = frozenset({"aspect_ratios", "cached_features"})
    provides = frozenset({"equal_blocks"})

    def __init__(self, in_channels: int, out_channels: int, image_size: int, **options: Any) -> None:
        super().__init__()
        self.options = parts = UViTOptions(**options)
        self.grid = patch_grid(image_size, image_size, parts.patch_size)
        channels, depth = parts.channels, parts.depth
        if channels % 2 or channels < 2:
            raise ValueError(f"backbone.channels must be even, for the sines and cosines of the time, not {channels}")
        if depth < 1 or depth % 2 == 0:
            raise ValueError(
                f"backbone.depth={depth} has no middle block; use {max(1, depth - 1)} or {max(3, depth + 1)}"
            )
        self.checkpointing, self.rope, self.accepts = parts.checkpointing, parts.rotary, parts.accepts
        self.embed_patches = PatchEmbedding(in_channels + parts.image_channels, channels, parts.patch_size)
        self.embed_time = SinusoidalEmbedding(channels)
        self.embed_condition = ConditionEmbedding(channels, **parts.of_vectors)
        self.extras = 1 + self.embed_condition.count
        self.positions = nn.Parameter(torch.empty(self.extras + self.grid[0] * self.grid[1], channels))
        block = parts.block | {"qkv_bias": False, "gelu": "none", "eps": 1e-5}  # as published
        self.early = nn.ModuleList(Block(**block) for _ in range(depth // 2))
        self.middle = Block(**block)
        self.late = nn.ModuleList(SkipBlock(**block) for _ in range(depth // 2))
        self.norm_out = token_norm(channels, parts.rms_norm, eps=1e-5)
        self.head = nn.Linear(channels, parts.patch_size**2 * out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1) if parts.conv else nn.Identity()
        self._initialise()

    def equal_blocks(self) -> Sequence[nn.Module]:
        return [*self.early, self.middle, *self.late]

    @property
    def side_multiple(self) -> int:
        """What must divide H and W of x: the side of a patch."""
        return self.options.patch_size

    def injectable(self) -> list[Injectable]:
        early, late = injectable_in("early", self.early, len(self.early)), injectable_in("late", self.late, 0)
        return [*early, *self.middle.injectable("middle", False), *late]

    def _initialise(self) -> None:
        """Initialise as published, with truncated normals of std 0.02, but for the last layer, which starts at 0."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and not isinstance(module, PatchEmbedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        zero_init(self.conv_out if isinstance(self.conv_out, nn.Conv2d) else self.head)

    @property
    def branches(self) -> int:
        """One more than the number of blocks before the middle: with one branch less, the middle block is reused."""
        return len(self.early) + 1

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        cond = Condition() if cond is None else cond
        grid = patch_grid(x.shape[2], x.shape[3], self.options.patch_size)
        extras = [*self.embed_condition(cond, len(x)), self.embed_time(c_noise).to(x.dtype)]
        patches = self.embed_patches(with_image(x, cond, self.options.image_channels))
        h = torch.cat([torch.stack(extras, dim=1), patches], dim=1) + self._positions(grid)  # (B, extras + N, C)
        rotation = None if self.rope is None else axial_rotation(grid, self.rope, self.extras, x.device, x.dtype)
        early, late, inner = list(self.early), list(self.late), self.reused(reuse)
        skips: list[Tensor] = []
        start = None if inner is None else len(late) - inner.branch  # the block that the deep features enter
        given = None if inner is None else inner.features
        for block in early if inner is None or given is None else early[: inner.branch]:
            h = run_block(block, self.checkpointing, h, rotation=rotation)
            skips.append(h)
        h = run_block(self.middle, self.checkpointing, h, rotation=rotation) if given is None else given
        deep, first = h, 0 if start is None or given is None else start
        for number, block in enumerate(late[first:], first):
            deep = h if number == start else deep
            h = run_block(block, self.checkpointing, h, skips.pop(), rotation=rotation)
        h = self.head(self.norm_out(h[:, self.extras :]))  # (B, N, p p out_channels)
        output = self.conv_out(unpatchify(h, grid, self.options.patch_size))  # (B, out_channels, H, W)
        return output if reuse is None else (output, deep)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the learned positions, interpolated if the grid is not that of ``image_size``, (extras + N, C)."""
        if grid == self.grid:
            return self.positions
        learned, (height, width) = self.positions[self.extras :], self.grid
        learned = rearrange(learned, "(h w) c -> 1 c h w", h=height, w=width)
        resized = rearrange(functional.interpolate(learned, size=grid, mode="bicubic"), "1 c h w -> (h w) c")
        return torch.cat([self.positions[: self.extras], resized])
