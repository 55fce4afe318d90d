"""Attention over the frames of clips. The frames are rows of their own, clip by clip: (B F, ...)."""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.patches import Rotation, axial_rotation
from diffsweep.layers.residual import Norm

PositionBias = Literal["buckets", "distance"]

_BUCKETS = 32
_FARTHEST = 128  # frames; T5's


class Clips(NamedTuple):
    """Which rows belong together: row b F + f is frame f of clip b.

    Attributes:
        frames: F.
        mask: True where the frame of the row may look at that of the column, (B, 1, 1, F, F); None where all see all.
    """

    frames: int
    mask: Tensor | None = None


def clips_of(frames: int, independent: Tensor | None = None) -> Clips:
    """Clips of F frames; those that are ``independent``, (B, F), see themselves only, and no other frame sees them (joint training of
    images and video: Ho et al. 2022, arXiv:2204.03458, section 3)."""
    if independent is None:
        return Clips(frames)
    together = ~(independent[:, :, None] | independent[:, None])
    itself = torch.eye(frames, dtype=torch.bool, device=independent.device)
    return Clips(frames, (together | itself)[:, None, None])


def rows_of_frames(c_noise: Tensor, frames: int) -> Tensor:
    """The time of each frame, (B F), of times (B,) or (B, F)."""
    return c_noise.repeat_interleave(frames) if c_noise.ndim == 1 else c_noise.flatten()


def t5_bucket(distance: Tensor, buckets: int = _BUCKETS, farthest: int = _FARTHEST) -> Tensor:
    """The bucket of a signed distance, key minus query (T5, Raffel et al. 2020, arXiv:1910.10683): half of the buckets for what comes
    later; of each half, one for each of the small distances, and the rest for ranges that grow as powers up to ``farthest``."""
    half = buckets // 2
    exact, size = half // 2, distance.abs()
    power = torch.log(size.clamp(min=1).double() / exact) / math.log(farthest / exact)  # 0 to 1 beyond the small ones
    far = (exact + power * (half - exact)).long().clamp(max=half - 1)
    return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)


def _own(distance: Tensor) -> Tensor:
    """A number for each distance, the negative ones first."""
    return distance - distance.min()


_BIASES: dict[PositionBias, Callable[[Tensor], Tensor]] = {"buckets": t5_bucket, "distance": _own}


@functools.lru_cache(maxsize=64)  # 50 us of each stage of a call; and a copy to the device
@torch.inference_mode(False)
def _rows(kind: PositionBias, frames: int, longest: int, device: torch.device) -> Tensor:
    """Which row of the table each pair of frames has, (F, F). The table has those of all distances up to ``longest``, and what is
    farther apart counts as so far apart."""
    table = _BIASES[kind](torch.arange(-longest, longest + 1, device="cpu"))
    place = torch.arange(frames, device="cpu")
    return table[(place - place[:, None]).clamp(-longest, longest) + longest].to(device)


class RelativeBias(nn.Module):
    """A learned number of each head for the distance in time between query and key, so that there is no absolute time (Shaw et al.
    2018, arXiv:1803.02155, as a bias of the logits: T5, arXiv:1910.10683).

    Any number of frames can be asked for. Distances that training clips do not have count as the largest that they have.

    Args:
        heads: N.
        kind: ``buckets``: T5's, 32, exact up to 7 frames; ``distance``: a number for each.
        num_frames: of training clips; None: distances up to 128 are told apart.
    """

    def __init__(self, heads: int, kind: PositionBias = "buckets", num_frames: int | None = None) -> None:
        super().__init__()
        if kind not in _BIASES:
            raise ValueError(f"backbone.position_bias is one of {', '.join(_BIASES)}, not {kind}")
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"backbone.num_frames must be at least 1, or null for images, not {num_frames}")
        self.kind, self.longest = kind, _FARTHEST if num_frames is None else num_frames - 1
        most = _BUCKETS if kind == "buckets" else 2 * self.longest + 1
        self.table = nn.Parameter(torch.zeros(most, heads))

    def forward(self, frames: int) -> Tensor:
        rows = _rows(self.kind, frames, self.longest, self.table.device)
        return self.table[rows].permute(2, 0, 1)  # (N, F, F)


class TemporalAttention(nn.Module):
    """Residual multi-head self-attention over the frames at each place of feature maps; the identity at first (Ho et al. 2022,
    arXiv:2204.03458, section 3). The norm is that of each frame, so that frames that do not see each other share nothing.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
        norm: makes the norm.
        position_bias, num_frames: see :class:`RelativeBias`.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        norm: Norm = group_norm,
        position_bias: PositionBias = "buckets",
        num_frames: int | None = None,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} attention heads")
        self.heads, self.norm = heads, norm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.bias = RelativeBias(heads, position_bias, num_frames)
        self.to_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        qkv = self.to_qkv(rearrange(self.norm(x), "b c h w -> b (h w) c"))  # (B F, H W, 3 C)
        q, k, v = rearrange(qkv, "(b f) l (three n d) -> three b l n f d", three=3, n=self.heads, f=clips.frames)
        bias = self.bias(clips.frames).to(q.dtype)
        mask = bias if clips.mask is None else torch.where(clips.mask, bias, -torch.inf)  # (B or nothing, 1, N, F, F)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H W, N, F, D)
        out = self.to_out(rearrange(out, "b l n f d -> (b f) l (n d)"))
        return x + rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])


class AcrossFrames(NamedTuple):
    """Which tokens of clips, (B F, N, C), attend to each other, beyond those of one frame. For queries, keys and values
    (B F, heads, N, D), in the words of einops.

    Attributes:
        gathered: how they lie then, tokens that attend to each other last but one.
        frames: F.
        mask: for these; None where all see all.
    """

    gathered: str
    frames: int
    mask: Tensor | None = None

    def gather(self, x: Tensor) -> Tensor:
        return rearrange(x, f"(b f) n l d -> {self.gathered}", f=self.frames)

    def scatter(self, x: Tensor) -> Tensor:
        return rearrange(x, f"{self.gathered} -> (b f) n l d", f=self.frames)


def over_time(clips: Clips) -> AcrossFrames:
    """The tokens at one place of all frames."""
    return AcrossFrames("b l n f d", clips.frames, clips.mask)


def over_space_and_time(clips: Clips, tokens: int) -> AcrossFrames:
    """All tokens of a clip, so many a frame."""
    mask = None if clips.mask is None else clips.mask[:, 0]  # (B, 1, F, F)
    if mask is not None:
        mask = mask.repeat_interleave(tokens, dim=2).repeat_interleave(tokens, dim=3)
    return AcrossFrames("b n (f l) d", clips.frames, mask)


@functools.lru_cache(maxsize=16)  # 30 us of a call; and two copies to the device
@torch.inference_mode(False)
def temporal_rotation(frames: int, channels: int, device: torch.device, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of rotary angles (RoPE, arXiv:2104.09864) that turn with the frame, (F, D / 2), for heads of D channels: what
    attention sees of time is the distance."""
    count = channels // 2
    frequencies = 10000 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)
    angles = torch.arange(frames, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


@functools.lru_cache(maxsize=16)  # 30 us of a call, and those of the two that it joins
@torch.inference_mode(False)
def space_time_rotation(
    frames: int,
    grid: tuple[int, int],
    channels: int,
    extras: int,
    in_space: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Rotation:
    """Rotary angles of all tokens of a clip, frame by frame, (F (extras + N), D / 2): they turn with the frame; ``in_space`` half of
    them do, and the rest as :func:`~diffsweep.layers.axial_rotation` has it."""
    tokens = extras + grid[0] * grid[1]
    in_time = temporal_rotation(frames, channels // 2 if in_space else channels, device, dtype)
    parts = [[part[:, None].expand(-1, tokens, -1) for part in in_time]]
    if in_space:
        turned = axial_rotation(grid, channels // 2, extras, device, dtype)
        parts.append([part.expand(frames, -1, -1) for part in turned])
    cos, sin = (torch.cat(both, dim=-1).flatten(0, 1) for both in zip(*parts, strict=True))
    return cos, sin


class TemporalConvolution(nn.Module):
    """Residual convolution over each frame, the one before it and the one after it, at each place of feature maps; the identity at first.
    After a convolution over space it is the (2+1)D one that sees motion at once (Tran et al. 2018, arXiv:1711.11248; in video diffusion
    Singer et al. 2022, arXiv:2209.14792). Frames that do not see each other share nothing; beyond the ends of a clip there are zeros.

    Args:
        channels: C.
        norm: makes the norm, that of each frame.
    """

    def __init__(self, channels: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.mix = zero_init(nn.Conv2d(3 * channels, channels, 1))

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        h = rearrange(functional.silu(self.norm(x)), "(b f) c h w -> b f c h w", f=clips.frames)
        before, after = h[:, :-1], h[:, 1:]
        if clips.mask is not None:
            seen = clips.mask[:, 0, 0].diagonal(-1, 1, 2)[
                ..., None, None, None
            ]  # (B, F - 1, 1, 1, 1): f and f + 1 see each other
            before, after = before * seen, after * seen
        nothing = torch.zeros_like(h[:, :1])
        three = [torch.cat([nothing, before], 1), h, torch.cat([after, nothing], 1)]
        return x + self.mix(torch.cat(three, 2).flatten(0, 1))  # (B F, C, H, W)


class TemporalSteps(nn.Module):
    """Steps over time, modules of (x, clips), one after the other."""

    def __init__(self, *steps: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        for step in self.steps:
            x = step(x, clips)
        return x
