"""U-Nets: DDPM's (Ho et al. 2020, arXiv:2006.11239), and by their options improved DDPM's, ADM's and Stable Diffusion's."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffsweep.diffusion import Condition
from diffsweep.layers import (
    TIME_EMBEDDINGS,
    Attend,
    ConditionEmbedding,
    ConvNeXtBlock,
    Downsample,
    ResidualBlock,
    SelfAttention2d,
    SinusoidalEmbedding,
    SpatialTransformer,
    TimeEmbedding,
    TokenContext,
    Upsample,
    accepted,
    enlarge,
    group_norm,
    linear_attention,
    pool,
    with_image,
    zero_init,
)

Block = Literal["ddpm", "biggan", "convnext"]
AttentionKind = Literal["full", "linear"]
ResampleOrder = Literal["after", "before"]

# The block of a level, and whether it resamples between levels too, where else convolutions do.
_BLOCKS: dict[Block, tuple[type[nn.Module], bool]] = {
    "ddpm": (ResidualBlock, False),
    "biggan": (ResidualBlock, True),
    "convnext": (ConvNeXtBlock, False),
}
_ATTENTIONS: dict[AttentionKind, Attend] = {"full": functional.scaled_dot_product_attention, "linear": linear_attention}
_ORDERS: dict[ResampleOrder, int] = {"after": 0, "before": 1}  # how often maps have been halved before the first level


class Stage(nn.Module):
    """A residual block, and attention at the levels that have it."""

    def __init__(self, block: nn.Module, attention: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, emb: Tensor, *context: Tensor | None) -> Tensor:
        h = self.block(x, emb)
        return h if self.attention is None else self.attention(h, *context)


class UNet(nn.Module):
    """A U-Net of residual blocks with attention at chosen levels.

    Odd sizes work: a level of size n is followed by one of size ceil(n / 2), and upsampling returns to the size that the
    skip connections have.

    The published networks are these options (``conf/backbone``), with the parameter counts of the public codes but for the
    null condition: a row of ``embed_condition.classes`` that ADM does not have, a token that Stable Diffusion does not. Sinusoids are
    those of guided-diffusion everywhere (DDPM's code has D/2 - 1 in place of D/2), and the query, key and value of all heads
    lie one after the other in ``to_qkv``.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x that ``attention_resolutions`` refer to; other sizes work too.
        channels: width of the first level.
        channel_mult: width of each level, as multiples of ``channels``.
        num_res_blocks: residual blocks of each level on the way down (one more on the way up).
        block: ``ddpm``; ``biggan``: the same, and resampling between levels happens inside such blocks (ADM, Dhariwal and
            Nichol 2021, arXiv:2105.05233); ``convnext``: see :class:`~diffsweep.layers.ConvNeXtBlock`.
        time_embedding: ``additive`` as in DDPM; ``scale_shift`` as in improved DDPM (arXiv:2102.09672) and ADM, which call
            it adaptive group normalisation.
        attention: ``full``, or ``linear`` in the number of pixels (arXiv:1812.01243).
        attention_resolutions: feature-map sizes that get attention.
        attention_factors: the same as downsampling factors, which do not depend on ``image_size``; a level in either has it.
        middle_attention: whether the middle attends; None: where any level does, and where there are tokens to attend to.
        num_heads: attention heads.
        head_channels: channels of a head, in place of ``num_heads``; a level of fewer channels has one head.
        context_dim: D of the tokens that each attention is followed by attention to, which makes it a transformer
            (Rombach et al. 2021, arXiv:2112.10752); None: no tokens.
        transformer_depth: blocks of each such transformer.
        num_classes: number of classes, embedded and added to the time; None: no classes.
        vector_dim: features of ``cond.vector`` in place of classes, added to the time too (with ``scale_shift`` that is FiLM,
            arXiv:1709.07871).
        num_scalars: numbers of ``cond.scalars``, added to the time too.
        image_channels: channels of ``cond.image``, which stand beside those of x; 0: no image.
        resample_order: ``after``: a level's maps are halved after its blocks on the way down, and doubled before them on the
            way up; ``before``: the other way round, so that no block works at full size, which the first convolution alone
            passes to the last (the efficient U-Net, Saharia et al. 2022, arXiv:2205.11487, appendix B).
        residual_scale: what sums of residual branches are multiplied by; 2^-1/2 in NCSN++ (arXiv:2011.13456).
        skip_scale: what skip connections are multiplied by; 2^-1/2 in the efficient U-Net.
        norm_groups: groups of the norms, at most; none has less than 4 channels.
        norm_eps: what the norms add to the variance.
        dropout: dropout rate inside residual blocks.
        checkpointing: whether training recomputes the inside of blocks in the backward pass, to save memory.

    Attributes:
        accepts: the parts of a condition that it takes, with their sizes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: int,
        channels: int = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_res_blocks: int = 2,
        block: Block = "ddpm",
        time_embedding: TimeEmbedding = "additive",
        attention: AttentionKind = "full",
        attention_resolutions: Sequence[int] = (4,),
        attention_factors: Sequence[int] = (),
        middle_attention: bool | None = None,
        num_heads: int = 1,
        head_channels: int | None = None,
        context_dim: int | None = None,
        transformer_depth: int = 1,
        num_classes: int | None = None,
        vector_dim: int | None = None,
        num_scalars: int | None = None,
        image_channels: int = 0,
        resample_order: ResampleOrder = "after",
        residual_scale: float = 1.0,
        skip_scale: float = 1.0,
        norm_groups: int = 32,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _one_of("block", block, _BLOCKS)
        _one_of("time_embedding", time_embedding, TIME_EMBEDDINGS)
        _one_of("attention", attention, _ATTENTIONS)
        _one_of("resample_order", resample_order, _ORDERS)
        _at_least_1(
            num_res_blocks=num_res_blocks, num_heads=num_heads, head_channels=head_channels, norm_groups=norm_groups
        )
        told = {"num_classes": num_classes, "vector_dim": vector_dim, "num_scalars": num_scalars}
        _at_least_1(context_dim=context_dim, transformer_depth=transformer_depth, **told)
        _at_least_1(channel_mult=min(channel_mult, default=0))
        first = _ORDERS[resample_order]
        attends = _attends(image_size, len(channel_mult), first, attention_resolutions, attention_factors)
        if channels % 2 or channels < 2:
            raise ValueError(f"backbone.channels must be even, for the sines and cosines of the time, not {channels}")
        middle_attends = any(attends) or context_dim is not None if middle_attention is None else middle_attention
        if context_dim is not None and not (middle_attends or any(attends)):
            raise ValueError("backbone.context_dim needs attention to tokens somewhere; set backbone.attention_factors")
        self.skip_scale, self.checkpointing, self.image_channels = skip_scale, checkpointing, image_channels
        self.accepts = accepted(**told, context_dim=context_dim, image_channels=image_channels)
        embedding = 4 * channels
        norm = partial(group_norm, groups=norm_groups, eps=norm_eps)
        kind, resamples = _BLOCKS[block]
        make_block: Callable[..., nn.Module] = partial(
            kind,
            embedding=embedding,
            dropout=dropout,
            time_embedding=time_embedding,
            norm=norm,
            residual_scale=residual_scale,
        )
        down: Callable[..., nn.Module] = partial(make_block, resample=pool) if resamples else Downsample
        up: Callable[..., nn.Module] = partial(make_block, resample=enlarge) if resamples else Upsample

        def make_attention(width: int) -> nn.Module:
            shared: dict[str, Any] = {
                "heads": _heads(width, num_heads, head_channels),
                "attend": _ATTENTIONS[attention],
                "residual_scale": residual_scale,
            }
            if context_dim is None:
                return SelfAttention2d(width, norm=norm, **shared)
            return SpatialTransformer(
                width, context_dim=context_dim, depth=transformer_depth, groups=norm_groups, **shared
            )

        def stage(width_in: int, width_out: int, attend: bool) -> Stage:
            return Stage(make_block(width_in, width_out), make_attention(width_out) if attend else None)

        self.sinusoids = SinusoidalEmbedding(channels)
        self.embed_time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_condition = ConditionEmbedding(embedding, **told)
        self.context = None if context_dim is None else TokenContext(context_dim)
        self.conv_in = nn.Conv2d(in_channels + image_channels, channels, 3, padding=1)
        levels = [
            (mult * channels, attend, level + first > 0)
            for level, (mult, attend) in enumerate(zip(channel_mult, attends, strict=True))
        ]
        width, skips = channels, [channels]
        self.down = nn.ModuleList()
        for level_width, attend, halved in levels:
            if halved:
                self.down.append(down(width, level_width if first else width))
                width = level_width if first else width
                skips.append(width)
            for _ in range(num_res_blocks):
                self.down.append(stage(width, level_width, attend))
                width = level_width
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, middle_attends), stage(width, width, False)])
        self.up = nn.ModuleList()
        for level_width, attend, halved in reversed(levels):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(width + skips.pop(), level_width, attend))
                width = level_width
            if halved:
                self.up.append(up(width, width))
        width += sum(skips)  # what no level took: the first convolution, with resample_order=before
        self.norm_out = norm(width)
        self.conv_out = zero_init(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        cond = Condition() if cond is None else cond
        emb = self.embed_time(self.sinusoids(c_noise).to(x.dtype))  # (B, E)
        for vector in self.embed_condition(cond, len(x)):
            emb = emb + vector
        emb = functional.silu(emb)
        context = () if self.context is None else self.context(cond.tokens, cond.token_mask, cond.is_null, len(x))
        h = self.conv_in(with_image(x, cond, self.image_channels))  # (B, C, H, W)
        skips = [h]
        for module in self.down:
            h = self._run(module, h, emb, *context) if isinstance(module, Stage) else self._run(module, h, emb)
            skips.append(h)
        if self.skip_scale != 1:
            skips = [self.skip_scale * skip for skip in skips]
        for module in self.middle:
            h = self._run(module, h, emb, *context)
        for module in self.up:
            if isinstance(module, Stage):
                h = self._run(module, torch.cat([h, skips.pop()], dim=1), emb, *context)
            else:
                h = self._run(module, h, emb, skips[-1].shape[-2:])
        h = torch.cat([h, *skips], dim=1) if skips else h
        return self.conv_out(functional.silu(self.norm_out(h)))  # (B, out_channels, H, W)

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        if self.checkpointing and self.training:
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def _one_of(key: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"backbone.{key} is one of {', '.join(allowed)}, not {value}")


def _at_least_1(**values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"backbone.{key} must be at least 1, not {value}")


def _attends(
    image_size: int, levels: int, first: int, resolutions: Sequence[int], factors: Sequence[int]
) -> list[bool]:
    """Which levels have attention, by the size of their maps and by the factor to it, if there are such levels."""
    sizes = [image_size]
    for _ in range(levels - 1 + first):
        sizes.append((sizes[-1] + 1) // 2)
    if sizes.count(1) > 1:
        raise ValueError(
            f"backbone.channel_mult has {levels} levels, but a {image_size}-pixel image is down to 1 pixel after "
            f"{sizes.index(1) + 1 - first}; use fewer"
        )
    sizes, halvings = sizes[first:], [2**level for level in range(first, levels + first)]
    if unknown := sorted(set(resolutions) - set(sizes)):
        raise ValueError(
            f"backbone.attention_resolutions has {unknown}, but the levels of a {image_size}-pixel image are {sizes}"
        )
    if unknown := sorted(set(factors) - set(halvings)):
        raise ValueError(f"backbone.attention_factors has {unknown}, but the levels have the factors {halvings}")
    return [size in resolutions or factor in factors for size, factor in zip(sizes, halvings, strict=True)]


def _heads(width: int, num_heads: int, head_channels: int | None) -> int:
    """Attention heads of a level."""
    if head_channels is not None:
        if width % min(width, head_channels):
            raise ValueError(f"backbone.head_channels={head_channels} does not divide a level's {width} channels")
        return max(1, width // head_channels)
    if width % num_heads:
        raise ValueError(f"backbone.num_heads={num_heads}: {width} channels cannot be split into {num_heads} heads")
    return num_heads
