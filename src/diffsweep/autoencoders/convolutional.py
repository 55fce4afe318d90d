"""The convolutional encoder and decoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, appendix G).

Images (B, C, H, W) become latents (B, C', H / f, W / f) for f = 2^m, by m + 1 levels of residual blocks with maps of
half the size from each level to the next; the decoder reverses this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from diffsweep.autoencoders.base import LearnedAutoencoder
from diffsweep.layers import Downsample, ResidualBlock, SelfAttention2d, Upsample, group_norm

EPS = 1e-6  # added to the variances in the norms of the published networks


class ResolutionBlocks(nn.Module):
    """The layers of a level: residual blocks, the first of them each followed by an attention layer, then resampling.

    Args:
        blocks: residual blocks, in the order in which they run.
        attentions: attention layer i follows block i; the list may be shorter than ``blocks``.
        resample: the last layer, which halves or doubles the maps; None for none.
    """

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module], resample: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks, self.attentions, self.resample = nn.ModuleList(blocks), nn.ModuleList(attentions), resample

    def forward(self, h: Tensor) -> Tensor:
        for block, attention in zip_longest(self.blocks, self.attentions):
            h = block(h)
            if attention is not None:
                h = attention(h)
        return h if self.resample is None else self.resample(h)


@dataclass(frozen=True, kw_only=True)
class ConvolutionalOptions:
    """The options of the encoder and the decoder of an autoencoder, with methods that build their modules.

    An autoencoder of factor f = 2^m has m + 1 levels.

    Attributes:
        channels: width that ``channel_mult`` multiplies.
        channel_mult: width of each level as a multiple of ``channels``, the largest maps first; levels beyond the end
            of the list have its last width.
        num_res_blocks: residual blocks of each level of the encoder; each level of the decoder has one more.
        attention_factors: downsampling factors of the levels that have attention, after each block.
        middle_attention: the middle has attention.
        norm_groups: largest number of groups of the norms, which is halved until a group has at least 4 channels.
        dropout: dropout rate inside residual blocks.

    Raises:
        ValueError: a count below 1, or a dropout rate outside [0, 1).
    """

    channels: int = 32
    channel_mult: Sequence[int] = (1, 2)
    num_res_blocks: int = 1
    attention_factors: Sequence[int] = ()
    middle_attention: bool = True
    norm_groups: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        counts = {"channels": self.channels, "num_res_blocks": self.num_res_blocks, "norm_groups": self.norm_groups}
        for key, value in counts.items():
            if value < 1:
                raise ValueError(f"autoencoder.network.{key} must be at least 1, not {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"autoencoder.network.dropout lies in [0, 1), not {self.dropout}")

    def levels(self, factor: int) -> list[tuple[int, bool]]:
        """Return for each level of an autoencoder its width and whether it has attention, the largest maps first.

        Args:
            factor: f = 2^m, for m + 1 levels.

        Raises:
            ValueError: ``channel_mult`` or ``attention_factors`` do not fit the levels.
        """
        factors = [2**level for level in range(factor.bit_length())]
        widths = [self.channels * mult for mult in _multipliers(self.channel_mult, factor)]
        if unknown := sorted(set(self.attention_factors) - set(factors)):
            raise ValueError(
                f"autoencoder.network.attention_factors has {unknown}, but the levels of "
                f"autoencoder.factor={factor} have the factors {factors}"
            )
        return [(width, level in self.attention_factors) for width, level in zip(widths, factors, strict=True)]

    def norm(self, width: int) -> nn.Module:
        return group_norm(width, self.norm_groups, EPS)

    def block(self, width_in: int, width: int) -> nn.Module:
        return ResidualBlock(width_in, width, embedding=None, dropout=self.dropout, norm=self.norm, zero=False)

    def attention(self, width: int) -> nn.Module:
        return SelfAttention2d(width, norm=self.norm, zero=False)

    def level(
        self, width_in: int, width: int, count: int, attends: bool, resample: Callable[[int, int], nn.Module] | None
    ) -> ResolutionBlocks:
        """Return the layers of a level: residual blocks, each with attention if chosen, then a resampling layer.

        Args:
            width_in: channels of the input.
            width: channels of the output.
            count: number of residual blocks.
            attends: attention follows each block.
            resample: makes the resampling layer from its input and output channels; None: none.
        """
        blocks = [self.block(width_in if i == 0 else width, width) for i in range(count)]
        attentions = [self.attention(width) for _ in range(count if attends else 0)]
        return ResolutionBlocks(blocks, attentions, None if resample is None else resample(width, width))

    def middle(self, width: int) -> ResolutionBlocks:
        """Return the middle of a network, at the smallest maps: residual block, attention if chosen, residual block."""
        blocks = [self.block(width, width) for _ in range(2)]
        return ResolutionBlocks(blocks, [self.attention(width)] if self.middle_attention else [])


def _multipliers(channel_mult: Sequence[int], factor: int) -> list[int]:
    """Return the multiplier of each level; levels beyond the end of the list have its last multiplier."""
    levels = factor.bit_length()
    if not channel_mult or min(channel_mult) < 1:
        raise ValueError(
            f"autoencoder.network.channel_mult holds at least one number, each at least 1, not {[*channel_mult]}"
        )
    if len(channel_mult) > levels:
        raise ValueError(
            f"autoencoder.network.channel_mult={[*channel_mult]} is of {len(channel_mult)} levels, but "
            f"autoencoder.factor={factor} makes {levels}; use at most {levels} of them, or "
            f"autoencoder.factor={2 ** (len(channel_mult) - 1)}"
        )
    return [*channel_mult, *[channel_mult[-1]] * (levels - len(channel_mult))]


class ConvolutionalEncoder(nn.Module):
    """An encoder from images (B, C, H, W) to the parameters of latents (B, C', H / f, W / f).

    It has a convolution; levels of residual blocks, with a convolution of stride 2 between levels; block, attention,
    block; norm, SiLU, convolution; a 1 x 1 convolution.

    Args:
        in_channels: C.
        out_channels: C', the number of parameters of the latents at each position.
        factor: f, a power of two.
        parts: the options, which build the modules.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, parts: ConvolutionalOptions) -> None:
        super().__init__()
        levels = parts.levels(factor)
        widths = [width for width, _ in levels]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (width, attends) in enumerate(levels):
            halve = partial(Downsample, pad_end=True) if i < len(widths) - 1 else None
            self.down.append(parts.level(widths[max(i - 1, 0)], width, parts.num_res_blocks, attends, halve))
        self.middle = parts.middle(widths[-1])
        self.norm_out = parts.norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)  # (B, C, H, W)
        for level in self.down:
            h = level(h)
        h = self.middle(h)  # (B, C, H / f, W / f)
        return self.quant_conv(self.conv_out(functional.silu(self.norm_out(h))))  # (B, C', H / f, W / f)


class ConvolutionalDecoder(nn.Module):
    """A decoder from latents (B, C', h, w) to images (B, C, f h, f w).

    It has the layers of :class:`ConvolutionalEncoder` in reverse order, with one more residual block in each level.

    Args:
        in_channels: C'.
        out_channels: C.
        factor: f, a power of two.
        parts: the options, which build the modules.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, parts: ConvolutionalOptions) -> None:
        super().__init__()
        levels = parts.levels(factor)[::-1]
        widths = [width for width, _ in levels]
        self.post_quant_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle = parts.middle(widths[0])
        self.up = nn.ModuleList()
        for i, (width, attends) in enumerate(levels):
            double = Upsample if i < len(widths) - 1 else None
            self.up.append(parts.level(widths[max(i - 1, 0)], width, parts.num_res_blocks + 1, attends, double))
        self.norm_out = parts.norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        h = self.middle(self.conv_in(self.post_quant_conv(h)))  # (B, C, h, w)
        for level in self.up:
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(h)))  # (B, C, f h, f w)


class ConvolutionalAutoencoder(LearnedAutoencoder):
    """An autoencoder whose networks are those of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

    Images of other sizes than ``image_size`` work too if the factor divides them. Subclasses define the distribution of
    the latents and the terms of the loss.

    Args:
        image_size: side of the images.
        in_channels: channels of the images.
        latent_channels: C' of the latents, (C', image_size / factor, image_size / factor).
        factor: f = 2^m.
        options: the fields of :class:`ConvolutionalOptions`.

    Attributes:
        num_moments: parameters of each latent number that the encoder predicts, such as 2 for mean and log-variance.

    Raises:
        ValueError: the factor is no power of two or does not divide ``image_size``, or options do not fit.
    """

    num_moments: int

    Options = ConvolutionalOptions

    def __init__(
        self, image_size: int, in_channels: int, latent_channels: int, factor: int = 2, **options: Any
    ) -> None:
        if latent_channels < 1:
            raise ValueError(f"autoencoder.channels must be at least 1, not {latent_channels}")
        _check_factor(factor, image_size)
        super().__init__(latent_channels)
        parts = ConvolutionalOptions(**options)
        self.in_channels, self.factor = in_channels, factor
        self.shape = (latent_channels, image_size // factor, image_size // factor)
        self.encoder = ConvolutionalEncoder(in_channels, self.num_moments * latent_channels, factor, parts)
        self.decoder = ConvolutionalDecoder(latent_channels, in_channels, factor, parts)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight  # type: ignore[return-value, union-attr]

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z * self.scale + self.shift)


def _check_factor(factor: int, image_size: int) -> None:
    if factor < 1 or factor & (factor - 1):
        raise ValueError(f"autoencoder.factor is a power of two (1, 2, 4, 8, ...), not {factor}")
    if image_size % factor:
        fitting = [2**m for m in range(image_size.bit_length()) if image_size % 2**m == 0]
        raise ValueError(
            f"autoencoder.factor={factor} does not divide dataset.image_size={image_size}; "
            f"use {' or '.join(map(str, fitting))}, or another size of images"
        )
