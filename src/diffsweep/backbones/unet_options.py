"""The options of U-Nets, grouped in dataclasses that build the modules they configure: blocks, stages and levels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from torch import nn
from torch.nn import functional

from diffsweep.backbones.base import at_least_1, one_of
from diffsweep.backbones.unet_blocks import ConvNeXtBlock, ResidualStage
from diffsweep.layers import (
    TIME_EMBEDDINGS,
    Attend,
    Downsample,
    ResidualBlock,
    SelfAttention2d,
    TimeEmbedding,
    Upsample,
    enlarge,
    group_norm,
    linear_attention,
    pool,
)

BlockKind = Literal["ddpm", "biggan", "convnext"]
AttentionKind = Literal["full", "linear"]
ResampleOrder = Literal["after", "before"]
Resampling = Callable[[int, int], nn.Module]  # (input width, output width) to a layer

# the residual block, and whether resampling between levels happens in such a block rather than in a convolution
_BLOCKS: dict[BlockKind, tuple[Callable[..., nn.Module], bool]] = {
    "ddpm": (ResidualBlock, False),
    "biggan": (ResidualBlock, True),
    "convnext": (ConvNeXtBlock, False),
}
ATTENTIONS: dict[AttentionKind, Attend] = {"full": functional.scaled_dot_product_attention, "linear": linear_attention}
_ORDERS: dict[ResampleOrder, int] = {"after": 0, "before": 1}  # halvings before the first level


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """The options of residual blocks, and of the layers that halve and double feature maps.

    Attributes:
        channels: width of the first level; the time embedding has four times this size.
        block: ``ddpm``: the residual block of DDPM, and convolutions that resample maps between levels; ``biggan``: the
            same, and resampling between levels happens inside such blocks (ADM, Dhariwal and Nichol 2021,
            arXiv:2105.05233); ``convnext``: see :class:`~diffsweep.backbones.unet_blocks.ConvNeXtBlock`.
        time_embedding: ``additive`` as in DDPM; ``scale_shift`` as in improved DDPM (arXiv:2102.09672) and ADM, which
            call it adaptive group normalisation.
        residual_scale: factor of the sums of residual branches; 2^-1/2 in NCSN++ (arXiv:2011.13456).
        norm_groups: largest number of groups of the norms, which is halved until a group has at least 4 channels.
        norm_eps: added to the variances in the norms.
        dropout: dropout rate inside residual blocks.

    Raises:
        ValueError: an unknown name, an odd number of ``channels``, or ``norm_groups`` below 1.
    """

    channels: int = 32
    block: BlockKind = "ddpm"
    time_embedding: TimeEmbedding = "additive"
    residual_scale: float = 1.0
    norm_groups: int = 32
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        one_of("block", self.block, _BLOCKS)
        one_of("time_embedding", self.time_embedding, TIME_EMBEDDINGS)
        at_least_1(norm_groups=self.norm_groups)
        if self.channels % 2 or self.channels < 2:
            raise ValueError(
                f"backbone.channels must be even, for the sines and cosines of the time, not {self.channels}"
            )

    @property
    def embedding(self) -> int:
        """The size of the time embedding, 4 ``channels``."""
        return 4 * self.channels

    def embed_time(self) -> nn.Sequential:
        """Return the MLP that maps the sinusoids of the time, (B, channels), to its embedding, (B, 4 channels)."""
        return nn.Sequential(
            nn.Linear(self.channels, self.embedding), nn.SiLU(), nn.Linear(self.embedding, self.embedding)
        )

    def norm(self, width: int) -> nn.Module:
        return group_norm(width, self.norm_groups, self.norm_eps)

    def residual(self) -> Callable[..., nn.Module]:
        """Return a function of (input width, output width) that makes a residual block of the kind ``block``."""
        return partial(
            _BLOCKS[self.block][0],
            embedding=self.embedding,
            dropout=self.dropout,
            time_embedding=self.time_embedding,
            norm=self.norm,
            residual_scale=self.residual_scale,
        )

    def halve(self) -> Resampling:
        return partial(self.residual(), resample=pool) if _BLOCKS[self.block][1] else Downsample

    def double(self) -> Resampling:
        return partial(self.residual(), resample=enlarge) if _BLOCKS[self.block][1] else Upsample


@dataclass(frozen=True, kw_only=True)
class ResidualStageOptions(BlockOptions):
    """The options of stages; a stage is a residual block and, at levels with attention, an attention layer after it.

    Attributes:
        attention: ``full``: softmax attention; ``linear``: efficient attention, of a cost linear in the number of
            pixels (arXiv:1812.01243).
        num_heads: number of attention heads.
        head_channels: channels of a head; if it is set, ``num_heads`` is not used. A level with fewer channels has one
            head.
    """

    attention: AttentionKind = "full"
    num_heads: int = 1
    head_channels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("attention", self.attention, ATTENTIONS)
        at_least_1(num_heads=self.num_heads, head_channels=self.head_channels)

    def heads(self, width: int) -> int:
        """Return the number of attention heads for feature maps of ``width`` channels.

        It is ``num_heads``, or if ``head_channels`` is set ``width`` over it, at least 1.

        Raises:
            ValueError: the heads or their channels do not divide the width.
        """
        if self.head_channels is not None:
            if width % min(width, self.head_channels):
                raise ValueError(
                    f"backbone.head_channels={self.head_channels} does not divide a level's {width} channels"
                )
            return max(1, width // self.head_channels)
        if width % self.num_heads:
            raise ValueError(
                f"backbone.num_heads={self.num_heads}: {width} channels cannot be split into {self.num_heads} heads"
            )
        return self.num_heads

    def attend(self, width: int) -> nn.Module:
        """Return an attention layer for feature maps of ``width`` channels.

        Raises:
            ValueError: the heads or their channels do not divide the width.
        """
        return SelfAttention2d(width, self.heads(width), ATTENTIONS[self.attention], self.norm, self.residual_scale)

    def stage(self, width_in: int, width_out: int, attends: bool) -> ResidualStage:
        attention = self.attend(width_out) if attends else None
        return ResidualStage(self.residual()(width_in, width_out), attention, width_out)


class Resolution(NamedTuple):
    """A level of a U-Net, on which all feature maps have one size.

    Attributes:
        width: channels of the feature maps.
        size: side of the feature maps for an image of the side that the network was built for.
        attends: the level's residual blocks are followed by attention.
        halved: the feature maps are halved before this level on the way down.
        blocks: residual blocks on the way down.
    """

    width: int
    size: int
    attends: bool
    halved: bool
    blocks: int


@dataclass(frozen=True, kw_only=True)
class ResolutionOptions(ResidualStageOptions):
    """The options of the levels of a U-Net, between which feature maps are halved and doubled.

    Attributes:
        channel_mult: width of each level, as a multiple of ``channels``.
        num_res_blocks: residual blocks of each level on the way down; on the way up each level has one more. A list
            gives each level its own number, the largest maps first (the efficient U-Net has more at smaller maps).
        attention_resolutions: sides of the feature maps that have attention, for an image of side ``image_size``.
        attention_factors: downsampling factors of levels that have attention, which do not depend on ``image_size``;
            levels in either list have it.
        resample_order: ``after``: a level's maps are halved after its blocks on the way down, and doubled before them
            on the way up; ``before``: halved before and doubled after its blocks, so that no block works at full size.
            Only the first convolution does, whose output a skip connection carries to the last one (the efficient
            U-Net, Saharia et al. 2022, arXiv:2205.11487, appendix B).
    """

    channel_mult: Sequence[int] = (1, 2)
    num_res_blocks: int | Sequence[int] = 2
    attention_resolutions: Sequence[int] = (4,)
    attention_factors: Sequence[int] = ()
    resample_order: ResampleOrder = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("resample_order", self.resample_order, _ORDERS)
        at_least_1(num_res_blocks=min(self.blocks, default=0), channel_mult=min(self.channel_mult, default=0))
        if len(self.blocks) != len(self.channel_mult):
            raise ValueError(
                f"backbone.num_res_blocks has {len(self.blocks)} numbers, and backbone.channel_mult "
                f"{len(self.channel_mult)} levels; give one number for all, or one for each"
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The residual blocks of each level on the way down."""
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.channel_mult)
        return tuple(self.num_res_blocks)

    def levels(self, image_size: int) -> list[Resolution]:
        """Return the levels for images of a side in pixels, the one with the largest feature maps first.

        Raises:
            ValueError: the image is too small for the levels, or attention is chosen at a size or factor that no level
                has.
        """
        first, count = _ORDERS[self.resample_order], len(self.channel_mult)
        sizes = [image_size]
        for _ in range(count - 1 + first):
            sizes.append((sizes[-1] + 1) // 2)
        if sizes.count(1) > 1:
            raise ValueError(
                f"backbone.channel_mult has {count} levels, but a {image_size}-pixel image is down to 1 pixel after "
                f"{sizes.index(1) + 1 - first}; use fewer"
            )
        sizes, factors = sizes[first:], [2**level for level in range(first, count + first)]
        if unknown := sorted(set(self.attention_resolutions) - set(sizes)):
            raise ValueError(
                f"backbone.attention_resolutions has {unknown}, but the levels of a {image_size}-pixel image have the "
                f"sizes {sizes}"
            )
        if unknown := sorted(set(self.attention_factors) - set(factors)):
            raise ValueError(f"backbone.attention_factors has {unknown}, but the levels have the factors {factors}")
        return [
            Resolution(
                width=mult * self.channels,
                size=size,
                attends=size in self.attention_resolutions or factor in self.attention_factors,
                halved=factor > 1,
                blocks=blocks,
            )
            for mult, size, factor, blocks in zip(self.channel_mult, sizes, factors, self.blocks, strict=True)
        ]

    def down(self, levels: Sequence[Resolution]) -> tuple[nn.ModuleList, list[int]]:
        """Return the layers of the way down in the order in which they run, and the widths of the feature maps.

        The widths are those of the first convolution's output, which is not one of the layers, and of the output of
        each layer, in order: the widths of the skip connections.
        """
        down, widths = nn.ModuleList(), [self.channels]
        for level in levels:
            if level.halved:
                width = level.width if self.resample_order == "before" else widths[-1]
                down.append(self.halve()(widths[-1], width))
                widths.append(width)
            for _ in range(level.blocks):
                down.append(self.stage(widths[-1], level.width, level.attends))
                widths.append(level.width)
        return down, widths

    def middle(self, width: int, attends: bool) -> nn.ModuleList:
        """Return the middle of the network: two stages at the smallest size, both from ``width`` to ``width`` channels.

        The first stage has attention if ``attends``, the second has none.
        """
        return nn.ModuleList([self.stage(width, width, attends), self.stage(width, width, False)])
