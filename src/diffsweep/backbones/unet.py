"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239), with options for those of its successors.

Residual blocks map an image (B, C, H, W) to feature maps at several levels, each of half the size of the one before.
On the way back up, the blocks of a level also read the maps that the same level had on the way down (skip
connections). The embedding of time and condition enters every residual block; some levels have self-attention or
cross-attention. With other options the network is that of improved DDPM, ADM or Stable Diffusion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.backbones.base import Backbone, Reuse, TokenSizes, at_least_1, copied_without, one_of
from diffsweep.backbones.unet_blocks import ResidualStage, SpatialTransformer
from diffsweep.backbones.unet_options import ATTENTIONS, Resampling, ResolutionOptions
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    Clips,
    ConditionEmbedding,
    Downsample,
    FirstHalf,
    Injectable,
    SinusoidalEmbedding,
    TokenContext,
    injectable_in,
    with_added,
    with_image,
    zero_init,
)
from diffsweep.layers.recomputation import recomputed

UpAttention = Literal["every", "last"]


@dataclass(frozen=True, kw_only=True)
class UNetOptions(ResolutionOptions, TokenSizes):
    """The options of a U-Net: those of its levels, the sizes of the condition's parts that it reads, and these.

    Attributes:
        middle_attention: the middle has attention; None: it has if any level has, or if the condition has tokens.
        transformer_depth: if the condition has tokens (``context_dim``), each attention is a transformer of this many
            blocks, with cross-attention to the tokens (Rombach et al. 2021, arXiv:2112.10752).
        up_attention: ``every``: on the way up all blocks of a level with attention have it; ``last``: its last block,
            as in DDPM++ and NCSN++ (arXiv:2011.13456).
        resample_projection: blocks that halve or double maps have a 1 x 1 convolution in their skip connection, as in
            these networks; it needs ``block=biggan``.
        time_endpoint: the frequencies of the time embedding are those of DDPM and score SDE, see
            :class:`~diffsweep.layers.SinusoidalEmbedding`.
        skip_scale: factor of the skip connections; 2^-1/2 in the efficient U-Net (arXiv:2205.11487).
        pad_end: convolutions that halve maps pad them at the end only, as in DDPM's code.
        checkpointing: recompute the activations of blocks in the backward pass to save memory (arXiv:1604.06174).
    """

    middle_attention: bool | None = None
    transformer_depth: int = 1
    up_attention: UpAttention = "every"
    resample_projection: bool = False
    time_endpoint: bool = False
    skip_scale: float = 1.0
    pad_end: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        ResolutionOptions.__post_init__(self)
        TokenSizes.__post_init__(self)
        at_least_1(transformer_depth=self.transformer_depth)
        one_of("up_attention", self.up_attention, get_args(UpAttention))
        if self.resample_projection and self.block != "biggan":
            raise ValueError(f"backbone.resample_projection needs backbone.block=biggan, not {self.block}")

    def halve(self) -> Resampling:
        made = super().halve()
        return self._projected(partial(made, pad_end=True) if self.pad_end and made is Downsample else made)

    def double(self) -> Resampling:
        return self._projected(super().double())

    def _projected(self, resampling: Callable[..., nn.Module]) -> Resampling:
        return partial(resampling, project=True) if self.resample_projection else resampling

    def attend(self, width: int) -> nn.Module:
        if self.context_dim is None:
            return super().attend(width)
        return SpatialTransformer(
            width,
            self.heads(width),
            self.context_dim,
            self.transformer_depth,
            ATTENTIONS[self.attention],
            self.norm_groups,
            self.residual_scale,
        )


class UNet(Backbone):
    """A U-Net of residual blocks with attention at chosen levels, from (B, C, H, W) to (B, out_channels, H, W).

    Odd sizes work: a level of size n is followed by one of size ceil(n / 2), and upsampling returns to the size of the
    skip connections. The embeddings of class, features and numbers of the condition are added to that of the time,
    which conditions every residual block; with ``time_embedding=scale_shift`` this is FiLM (arXiv:1709.07871).

    The published networks are options of the group ``backbone`` (files of ``conf/backbone``), with the parameter counts
    of the public codes. They set ``attention_factors``, not ``attention_resolutions``, so that an option is the same
    network at any image size. Differences from these codes: the null condition has parameters of its own, a further row
    of ``embed_condition.classes`` in ADM and a token in Stable Diffusion; the sinusoids are those of guided-diffusion
    unless ``time_endpoint`` is set; the queries of all heads come first in ``to_qkv``, then all keys, then all values.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x that ``attention_resolutions`` refer to; other sizes work too.
        options: the fields of :class:`UNetOptions`.

    Raises:
        ValueError: options that do not fit, such as attention at a size that no level has.
    """

    Options = UNetOptions
    supports = frozenset({"aspect_ratios", "control", "cached_features"})

    def __init__(self, in_channels: int, out_channels: int, image_size: int, **options: Any) -> None:
        super().__init__()
        self.options = UNetOptions(**options)
        parts, levels, context_dim = self.options, self.options.levels(image_size), self.options.context_dim
        attends = any(level.attends for level in levels)
        middle_attends = parts.middle_attention
        if middle_attends is None:
            middle_attends = attends or context_dim is not None
        if context_dim is not None and not (middle_attends or attends):
            raise ValueError(
                "backbone.context_dim needs attention in at least one level; set backbone.attention_factors"
            )
        self.checkpointing, self.accepts = parts.checkpointing, parts.accepts
        self._factor = 2 ** sum(level.halved for level in levels)
        self.sinusoids = SinusoidalEmbedding(parts.channels, parts.time_endpoint)
        self.embed_time = parts.embed_time()
        self.embed_condition = ConditionEmbedding(parts.embedding, **parts.of_vectors)
        self.context = None if context_dim is None else TokenContext(context_dim)
        self.conv_in = nn.Conv2d(in_channels + parts.image_channels, parts.channels, 3, padding=1)
        self.down, skips = parts.down(levels)
        width = skips[-1]
        self.widths = [*skips, width]
        self.middle = parts.middle(width, middle_attends)
        self.up = nn.ModuleList()
        for level in reversed(levels):
            for block in range(level.blocks + 1):
                attends = level.attends and (parts.up_attention == "every" or block == level.blocks)
                self.up.append(parts.stage(width + skips.pop(), level.width, attends))
                width = level.width
            if level.halved:
                self.up.append(parts.double()(width, width))
        width += sum(skips)  # with resample_order=before no level reads the maps of the first convolution
        self.norm_out = parts.norm(width)
        self.conv_out = zero_init(nn.Conv2d(width, out_channels, 3, padding=1))

    @property
    def side_multiple(self) -> int:
        """What must divide H and W of x: 1, or with ``pad_end`` the factor by which the smallest maps are smaller."""
        return self._factor if self.options.pad_end else 1

    @property
    def branches(self) -> int:
        """One more than the number of residual stages on the way up: with one branch less, the middle is reused."""
        return 1 + sum(isinstance(module, ResidualStage) for module in self.up)

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        cond = Condition() if cond is None else cond
        output, deep = self._forward_images(x, c_noise, cond, added=self.added(x, c_noise, cond), reuse=reuse)
        return output if reuse is None else (output, deep)

    def _forward_images(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Condition,
        clips: Clips | None = None,
        added: Sequence[Tensor] = (),
        reuse: Reuse | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the output for images, or for the frames of clips as images, (B, C, H, W), each with its own time.

        Beside it are the deep features, the maps (B, C', H', W') that the first of the last ``reuse.branch`` stages on
        the way up takes from the stage below it (DeepCache, arXiv:2312.00858). If they are given, neither the stages
        below nor the maps that only these read are computed.

        ``clips`` divides the frames into clips for the layers over time; None: x are images. ``added`` is added to the
        maps of the first half.
        """
        up, reuse = list(self.up), self.reused(reuse)
        stages = [number for number, module in enumerate(up) if isinstance(module, ResidualStage)]
        start = None if reuse is None else stages[-reuse.branch]  # the module that the deep features enter
        emb, context = self._embedded(x, c_noise, cond)
        if start is None or reuse is None or reuse.features is None:
            *skips, h = with_added(self._first_half(x, cond, emb, context, clips), added)
            first = 0
        else:
            maps = self._way_down(x, cond, emb, context, clips, leave_out=stages.index(start))
            skips, h, first = with_added(maps, added[: len(maps)]), reuse.features, start
        deep = h
        if self.options.skip_scale != 1:
            skips = [self.options.skip_scale * skip for skip in skips]
        for number, module in enumerate(up[first:], first):
            deep = h if number == start else deep
            if isinstance(module, ResidualStage):
                h = self._run(module, torch.cat([h, skips.pop()], dim=1), emb, *context, clips=clips)
            else:
                h = self._run(module, h, emb, skips[-1].shape[-2:])
        h = torch.cat([h, *skips], dim=1) if skips else h
        return self.conv_out(functional.silu(self.norm_out(h))), deep  # (B, out_channels, H, W)

    def _embedded(self, x: Tensor, c_noise: Tensor, cond: Condition) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return the embedding of time and condition, (B, E), and the context of cross-attention and its mask."""
        emb = self.embed_time(self.sinusoids(c_noise).to(x.dtype))  # (B, E)
        for vector in self.embed_condition(cond, len(x)):
            emb = emb + vector
        context = () if self.context is None else self.context(cond.tokens, cond.token_mask, cond.is_null, len(x))
        return functional.silu(emb), context

    def _way_down(
        self,
        x: Tensor,
        cond: Condition,
        emb: Tensor,
        context: tuple[Tensor | None, ...],
        clips: Clips | None = None,
        hint: Tensor | None = None,
        leave_out: int = 0,
    ) -> list[Tensor]:
        """Return the maps on the way down, without a number of the last ones.

        ``hint`` is added to the first of the maps, (B, C', H, W).
        """
        first = self.conv_in(with_image(x, cond, self.options.image_channels))
        maps = [first if hint is None else first + hint]  # (B, C', H, W)
        for module in list(self.down)[: len(self.down) - leave_out]:
            if isinstance(module, ResidualStage):
                maps.append(self._run(module, maps[-1], emb, *context, clips=clips))
            else:
                maps.append(self._run(module, maps[-1], emb))
        return maps

    def _first_half(
        self,
        x: Tensor,
        cond: Condition,
        emb: Tensor,
        context: tuple[Tensor | None, ...],
        clips: Clips | None = None,
        hint: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the maps on the way down, see :meth:`_way_down`, and that of the middle."""
        maps = self._way_down(x, cond, emb, context, clips, hint)
        h = maps[-1]
        for module in self.middle:
            h = self._run(module, h, emb, *context, clips=clips)
        return [*maps, h]

    def first_half(self, x: Tensor, c_noise: Tensor, cond: Condition, hint: Tensor) -> list[Tensor]:
        """Return the maps on the way down and that of the middle, of images x (B, C, H, W).

        Args:
            x, c_noise, cond: the arguments of the network.
            hint: what is added to the map of the first convolution, (B, C', H, W).
        """
        return self._first_half(x, cond, *self._embedded(x, c_noise, cond), hint=hint)

    def copied_half(self, blocks: int | None = None) -> FirstHalf:
        if blocks is not None:
            raise ValueError(f"a U-Net is copied as far as its middle: leave out the number of blocks, {blocks}")
        network = copied_without(self, "up", "norm_out", "conv_out")
        return FirstHalf(network, self.widths, self.widths[0], factor=1, tokens=False)

    def stages(self) -> list[ResidualStage]:
        """Return all residual stages in the order in which they run; a stage is a residual block with its attention."""
        modules = [*self.down, *self.middle, *self.up]
        return [module for module in modules if isinstance(module, ResidualStage)]

    def injectable(self) -> list[Injectable]:
        inner = [*injectable_in("down", self.down), *injectable_in("middle", self.middle)]
        return [*inner, *injectable_in("up", self.up, decodes_from=0)]

    def _run(self, module: nn.Module, *inputs: Any, **keywords: Any) -> Any:
        if self.checkpointing and self.training:
            return recomputed(module, *inputs, **keywords)
        return module(*inputs, **keywords)
