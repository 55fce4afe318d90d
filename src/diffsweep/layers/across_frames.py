"""Attention of transformer tokens across the frames of clips, and rotary positions in time.

Tokens of clips are (B F, N, C), with the N tokens of one frame in a row. Attention over time joins the F tokens at one
position; joint attention joins all F N tokens of a clip. In both, the channels (a, b) of a query or key in frame f are
rotated by the angle u = f w_i, w_i = 10000^(-i / n) for n such pairs, to (a cos u - b sin u, a sin u + b cos u) (RoPE,
arXiv:2104.09864), so that attention depends on distances in time and clips of any length can be given.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from diffsweep.layers.constants import made_once
from diffsweep.layers.patches import Rotation, axial_rotation
from diffsweep.layers.temporal import Clips


class AcrossFrames(NamedTuple):
    """A rearrangement of the tokens of clips so that tokens of different frames attend to each other.

    Queries, keys and values (B F, heads, N, D) of B clips of F frames hold the N tokens of one frame in each row.
    ``gather`` moves the tokens that shall attend to each other into the last axis but one, and ``scatter`` undoes this.

    Attributes:
        layout: einops pattern of the gathered tensors, with axes b (clips), f (frames), n (heads), l (tokens) and d.
        frames: F.
        mask: bool, True where a query (last axis but one) may attend to a key (last axis); it broadcasts with the
            logits of the gathered attention. None: all may attend to all.
    """

    layout: str
    frames: int
    mask: Tensor | None = None

    def gather(self, x: Tensor) -> Tensor:
        return rearrange(x, f"(b f) n l d -> {self.layout}", f=self.frames)

    def scatter(self, x: Tensor) -> Tensor:
        return rearrange(x, f"{self.layout} -> (b f) n l d", f=self.frames)


def over_time(clips: Clips) -> AcrossFrames:
    """Return the rearrangement for attention over time, among the tokens at one position of the F frames of a clip.

    Args:
        clips: the number of frames F of each clip, and which of them may attend to each other.
    """
    return AcrossFrames("b l n f d", clips.frames, clips.mask)


def over_space_and_time(clips: Clips, tokens: int) -> AcrossFrames:
    """Return the rearrangement for joint attention among all tokens of a clip.

    Args:
        clips: the number of frames F of each clip, and which of them may attend to each other.
        tokens: the number of tokens N of each frame, so that F N tokens attend to each other.
    """
    mask = None if clips.mask is None else clips.mask[:, 0]  # (B, 1, F, F)
    if mask is not None:
        mask = mask.repeat_interleave(tokens, dim=2).repeat_interleave(tokens, dim=3)
    return AcrossFrames("b n (f l) d", clips.frames, mask)


@made_once(16)  # saves 30 us a call, and two copies to the device
@torch.inference_mode(False)
def temporal_rotation(frames: int, channels: int, device: torch.device, dtype: torch.dtype) -> Rotation:
    """Return the cosines and sines of rotary angles (RoPE, arXiv:2104.09864) proportional to the frame's index.

    Angle i of frame f = 0, ..., F - 1 is f 10000^(-i / (D / 2)). Attention with rotated queries and keys depends on
    distances in time alone.

    Args:
        frames: F.
        channels: D of one head, even.
        device: of the result.
        dtype: of the result.

    Returns:
        The cosines and the sines, each (F, D / 2), for :func:`~diffsweep.layers.rotate`.
    """
    count = channels // 2
    frequencies = 10000 ** (-torch.arange(count, dtype=torch.float64, device="cpu") / count)
    angles = torch.arange(frames, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


@made_once(16)  # saves 30 us a call, and those of the two rotations that it joins
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
    """Return the cosines and sines of rotary angles (RoPE, arXiv:2104.09864) of all tokens of a clip, frame by frame.

    Args:
        frames: F.
        grid: rows and columns of the N patches of a frame.
        channels: D of one head, divisible by 8 with ``in_space``, else by 2.
        extras: number of tokens before the patches of each frame, which have a position in time but none in space.
        in_space: the first half of the angles is proportional to the frame's index and the second half encodes row and
            column as :func:`~diffsweep.layers.axial_rotation` does; if False, all angles are proportional to the index.
        device: of the result.
        dtype: of the result.

    Returns:
        The cosines and the sines, each (F (extras + N), D / 2).
    """
    tokens = extras + grid[0] * grid[1]
    in_time = temporal_rotation(frames, channels // 2 if in_space else channels, device, dtype)
    parts = [[part[:, None].expand(-1, tokens, -1) for part in in_time]]
    if in_space:
        rotation = axial_rotation(grid, channels // 2, extras, device, dtype)
        parts.append([part.expand(frames, -1, -1) for part in rotation])
    cos, sin = (torch.cat(both, dim=-1).flatten(0, 1) for both in zip(*parts, strict=True))
    return cos, sin
