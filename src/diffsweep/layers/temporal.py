"""Attention and convolutions over the frames of clips (Ho et al. 2022, arXiv:2204.03458).

Feature maps of B clips of F frames are (B F, C, H, W): row b F + f is frame f of clip b. At each position of the map,
frame i attends to the frames j of its clip:

    out_i = sum_j w_ij v_j,    w_ij = softmax_j(q_i . k_j / sqrt(D) + b(j - i))

with a learned bias b of the distance in time, per head (:class:`RelativeBias`). A mask isolates frames that are
independent images, for joint training on clips and images. Transformers attend over time by ``across_frames.py``.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffsweep.layers.constants import made_once
from diffsweep.layers.norms import group_norm, zero_init
from diffsweep.layers.residual import Norm

PositionBias = Literal["buckets", "distance"]

_BUCKETS = 32
_FARTHEST = 128  # frames, as in T5


class Clips(NamedTuple):
    """The division of a batch of frames into clips: row b F + f is frame f of clip b.

    Attributes:
        frames: F, the frames of each clip.
        mask: bool, (B, 1, 1, F, F), True at (i, j) if frame i may attend to frame j; None: all may attend to all.
    """

    frames: int
    mask: Tensor | None = None


def clips_of(frames: int, independent: Tensor | None = None) -> Clips:
    """Return the division of a batch of frames into clips of F frames, with a mask that isolates independent frames.

    An independent frame attends to itself only, and no other frame attends to it. So images can be appended to clips as
    further frames, to train on both (Ho et al. 2022, arXiv:2204.03458, section 3).

    Args:
        frames: F.
        independent: bool, (B, F), True for independent frames; None: no frame is, and the result has no mask.
    """
    if independent is None:
        return Clips(frames)
    together = ~(independent[:, :, None] | independent[:, None])
    itself = torch.eye(frames, dtype=torch.bool, device=independent.device)
    return Clips(frames, (together | itself)[:, None, None])


def rows_of_frames(c_noise: Tensor, frames: int) -> Tensor:
    """Return the time of each frame, (B F), in which row b F + f is frame f of clip b.

    Args:
        c_noise: times of clips (B,), which are repeated for their frames, or of frames (B, F).
        frames: F.
    """
    return c_noise.repeat_interleave(frames) if c_noise.ndim == 1 else c_noise.flatten()


def t5_bucket(distance: Tensor, buckets: int = _BUCKETS, farthest: int = _FARTHEST) -> Tensor:
    """Return the bucket of each signed distance as in T5 (Raffel et al. 2020, arXiv:1910.10683).

    Large distances share buckets. The second half of the buckets is for keys later than the query. In each half with n
    buckets, the distances below n / 2 have one bucket each; the other n / 2 cover ranges of geometrically growing
    length up to ``farthest``, and the last of them everything beyond.

    Args:
        distance: position of the key minus that of the query, int64.
        buckets: number of buckets of both halves.
        farthest: distance from which on all share the last bucket of their half.

    Returns:
        Indices 0 to ``buckets`` - 1, int64, of the shape of ``distance``.
    """
    half = buckets // 2
    exact, size = half // 2, distance.abs()
    power = torch.log(size.clamp(min=1).double() / exact) / math.log(farthest / exact)  # 0 at exact, 1 at farthest
    far = (exact + power * (half - exact)).long().clamp(max=half - 1)
    return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far)


def _one_each(distance: Tensor) -> Tensor:
    """Return an index for each distance, from 0 at the most negative one."""
    return distance - distance.min()


_BIASES: dict[PositionBias, Callable[[Tensor], Tensor]] = {"buckets": t5_bucket, "distance": _one_each}


@made_once(64)  # saves 50 us for each level of a call, and a copy to the device
@torch.inference_mode(False)
def _table_rows(kind: PositionBias, frames: int, longest: int, device: torch.device) -> Tensor:
    """Return the row of the bias table for each pair of frames (query, key), int64, (F, F).

    The table covers distances up to ``longest``; larger distances are clamped to it.
    """
    table = _BIASES[kind](torch.arange(-longest, longest + 1, device="cpu"))
    frame = torch.arange(frames, device="cpu")
    return table[(frame - frame[:, None]).clamp(-longest, longest) + longest].to(device)


class RelativeBias(nn.Module):
    """A learned bias of attention logits for each distance in time between query and key, in each head.

    ``forward(frames)`` returns the biases (N, F, F) of head, query and key. Relative positions are from Shaw et al.
    2018 (arXiv:1803.02155), their form as a bias from T5 (arXiv:1910.10683). No absolute time enters, so the bias can
    be computed for any number of frames. Distances that do not occur in the training clips have the bias of the largest
    distance that does.

    Args:
        heads: number of heads N.
        kind: ``buckets``: the 32 buckets of T5, one for each distance up to 7 frames; ``distance``: a value for each
            distance. Both distinguish later keys from earlier ones.
        num_frames: frames of the training clips; None: the largest distance with a bias of its own is 128.

    Raises:
        ValueError: an unknown ``kind``, or ``num_frames`` below 1.
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
        rows = _table_rows(self.kind, frames, self.longest, self.table.device)
        return self.table[rows].permute(2, 0, 1)  # (N, F, F)


class TemporalAttention(nn.Module):
    """A residual layer of multi-head self-attention over the frames of a clip, at each position of the feature maps.

    It is the temporal attention of Ho et al. 2022 (arXiv:2204.03458, section 3). ``forward`` takes maps (B F, C, H, W)
    and their division into :class:`Clips`, and returns maps of the same shape. The layer starts as the identity. The
    norm is over each frame alone, so that frames that the clips' mask separates do not influence each other.

    Args:
        channels: C, divisible by ``heads``.
        heads: number of heads.
        norm: makes the norm for C channels.
        position_bias: the ``kind`` of :class:`RelativeBias`, ``buckets`` or ``distance``.
        num_frames: frames of the training clips, for :class:`RelativeBias`; None: not fixed.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
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
        mask = bias if clips.mask is None else torch.where(clips.mask, bias, -torch.inf)  # ([B, 1,] N, F, F)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H W, N, F, D)
        out = self.to_out(rearrange(out, "b l n f d -> (b f) l (n d)"))
        return x + rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])


class TemporalConvolution(nn.Module):
    """A residual convolution of kernel 3 over the frames, at each position of feature maps (B F, C, H, W).

    Frame f becomes x_f + W_- h_{f-1} + W_0 h_f + W_+ h_{f+1} + bias with h = silu(norm(x)); h is 0 beyond the ends of
    a clip and for frames that the mask of :class:`Clips`, the second argument of ``forward``, separates from f. The
    layer starts as the identity. After a convolution over space it makes a (2+1)D convolution (Tran et al. 2018,
    arXiv:1711.11248; in video diffusion Singer et al. 2022, arXiv:2209.14792).

    Args:
        channels: C.
        norm: makes the norm for C channels, which is over each frame alone.
    """

    def __init__(self, channels: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.mix = zero_init(nn.Conv2d(3 * channels, channels, 1))

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        h = rearrange(functional.silu(self.norm(x)), "(b f) c h w -> b f c h w", f=clips.frames)
        before, after = h[:, :-1], h[:, 1:]
        if clips.mask is not None:
            joined = clips.mask[:, 0, 0].diagonal(-1, 1, 2)  # (B, F - 1): f and f + 1 attend to each other
            joined = joined[..., None, None, None]
            before, after = before * joined, after * joined
        zeros = torch.zeros_like(h[:, :1])
        three = [torch.cat([zeros, before], 1), h, torch.cat([after, zeros], 1)]
        return x + self.mix(torch.cat(three, 2).flatten(0, 1))  # (B F, C, H, W)


class TemporalSteps(nn.Module):
    """A sequence of layers over the frames of clips, called in turn as ``x = step(x, clips)``.

    ``x`` are feature maps (B F, C, H, W), and ``clips`` is their division into :class:`Clips`.
    """

    def __init__(self, *steps: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, clips: Clips) -> Tensor:
        for step in self.steps:
            x = step(x, clips)
        return x
