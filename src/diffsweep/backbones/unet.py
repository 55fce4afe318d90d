"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.diffusion import Condition
from diffsweep.layers import SelfAttention2d, SinusoidalEmbedding, group_norm, zero_init


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; plus the time's embedding; norm, SiLU, dropout, conv (zero at first); plus the input."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = group_norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels)
        self.norm_out = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))  # (B, C', H, W)
        h = h + self.embed(emb)[:, :, None, None]
        h = self.conv_out(self.dropout(functional.silu(self.norm_out(h))))
        return self.skip(x) + h


class Stage(nn.Module):
    """A residual block, and attention at the resolutions that have it."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding: int, dropout: float, heads: int, attention: bool
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, embedding, dropout)
        self.attention = SelfAttention2d(out_channels, heads) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class UNet(nn.Module):
    """A U-Net of residual blocks with self-attention at chosen resolutions.

    Odd sizes work: a level of size n is followed by one of size ceil(n / 2), and upsampling returns to the size that the
    skip connections have.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        image_size: side of x that ``attention_resolutions`` refer to; other sizes work too.
        channels: width of the first level.
        channel_mult: width of each level, as multiples of ``channels``.
        num_res_blocks: residual blocks of each level on the way down (one more on the way up).
        attention_resolutions: feature-map sizes that get self-attention; the middle has it where this is not empty.
        num_heads: attention heads.
        dropout: dropout rate inside residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: int,
        channels: int = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4,),
        num_heads: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [image_size]
        for _ in channel_mult[1:]:
            sizes.append((sizes[-1] + 1) // 2)
        if unknown := sorted(set(attention_resolutions) - set(sizes)):
            raise ValueError(
                f"backbone.attention_resolutions has {unknown}, but the levels of a {image_size}-pixel image are {sizes}"
            )
        if sizes.count(1) > 1:
            raise ValueError(
                f"backbone.channel_mult has {len(sizes)} levels, but a {image_size}-pixel image is down to 1 pixel after "
                f"{sizes.index(1) + 1}; use fewer"
            )
        if channels % 2 or channels < 2:
            raise ValueError(f"backbone.channels must be even, for the sines and cosines of the time, not {channels}")
        if num_res_blocks < 1:
            raise ValueError(f"backbone.num_res_blocks must be at least 1, not {num_res_blocks}")
        embedding = 4 * channels
        self.sinusoids = SinusoidalEmbedding(channels)
        self.embed_time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)

        def stage(width_in: int, width_out: int, attention: bool) -> Stage:
            return Stage(width_in, width_out, embedding, dropout, num_heads, attention)

        width, skips = channels, [channels]
        self.down = nn.ModuleList()
        for level, (mult, size) in enumerate(zip(channel_mult, sizes, strict=True)):
            for _ in range(num_res_blocks):
                self.down.append(stage(width, mult * channels, size in attention_resolutions))
                width = mult * channels
                skips.append(width)
            if level < len(sizes) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList(
            [stage(width, width, attention=len(attention_resolutions) > 0), stage(width, width, attention=False)]
        )
        self.up = nn.ModuleList()
        for level, (mult, size) in reversed(list(enumerate(zip(channel_mult, sizes, strict=True)))):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(width + skips.pop(), mult * channels, size in attention_resolutions))
                width = mult * channels
            if level > 0:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm_out = group_norm(width)
        self.conv_out = zero_init(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        emb = functional.silu(self.embed_time(self.sinusoids(c_noise).to(x.dtype)))  # (B, E)
        h = self.conv_in(x)  # (B, C, H, W)
        skips = [h]
        for module in self.down:
            h = module(h, emb) if isinstance(module, Stage) else module(h)
            skips.append(h)
        for module in self.middle:
            h = module(h, emb)
        for module in self.up:
            if isinstance(module, Stage):
                h = module(torch.cat([h, skips.pop()], dim=1), emb)
            else:
                h = module(functional.interpolate(h, size=skips[-1].shape[-2:], mode="nearest"))
        return self.conv_out(functional.silu(self.norm_out(h)))  # (B, out_channels, H, W)
