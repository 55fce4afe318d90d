"""A diffusion transformer for video, with attention over space and time in turn or jointly (Latte, arXiv:2401.03048).

A clip (B, C, F, H, W) is cut into patches of p' frames and p x p pixels. Each group of p' frames is handled as an image
of p' C channels, so that the blocks and weights are those of a DiT for images.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from einops import rearrange, reduce
from torch import Tensor

from diffsweep.backbones.base import Reuse, at_least_1, one_of
from diffsweep.backbones.dit import AttentionLayout, DiT
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    Clips,
    clips_of,
    over_space_and_time,
    over_time,
    rows_of_frames,
    space_time_rotation,
    temporal_rotation,
)

SpaceTime = Literal["factorised", "full"]


class DiT3D(DiT):
    """A DiT over patches of space and time, from clips (B, in_channels, F, H, W) to (B, out_channels, F, H, W).

    The blocks are those of :class:`DiT`, and differ only in which tokens attend to each other. With
    ``attention=factorised`` blocks 1, 3, ... attend within each frame and blocks 2, 4, ... over time at each position
    (Ma et al. 2024, arXiv:2401.03048, variant 1), at a cost linear in the number of frames. With ``full`` all tokens
    of a clip attend to each other in every block, at a quadratic cost.

    Positions in time are rotary angles (RoPE, arXiv:2104.09864), where the default of the paper adds sinusoids, so
    that attention depends on distances in time, and clips of any length that the patches divide can be given. Each
    frame may have its own time and its own class; a patch of several frames has the mean of their embeddings.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        num_frames: frames of the training clips, which ``frames_per_patch`` must divide; None: not checked.
        frames_per_patch: frames of a patch.
        attention: ``factorised`` or ``full``.
        image_channels: channels of ``cond.image``, which are concatenated with those of x; 0: it is not read.
        dit: the other arguments of :class:`DiT`. With ``rope`` positions in space are rotary too; in ``full`` attention
            half of the channels are then rotated by time and half by space.

    Raises:
        ValueError: sizes that do not fit, such as a patch that does not divide the frames, or attention heads whose
            channels rotary positions cannot rotate. ``forward`` raises one for clips that the patch does not divide.
    """

    requires = frozenset({"clips"})
    supports = frozenset({"clips", "cached_features"})

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_frames: int | None = None,
        frames_per_patch: int = 1,
        attention: SpaceTime = "factorised",
        image_channels: int = 0,
        **dit: Any,
    ) -> None:
        at_least_1(num_frames=num_frames, frames_per_patch=frames_per_patch)
        one_of("attention", attention, _ATTENTIONS)
        if num_frames is not None:
            _check_divides(num_frames, frames_per_patch)
        super().__init__(
            in_channels=frames_per_patch * in_channels,
            out_channels=frames_per_patch * out_channels,
            image_channels=frames_per_patch * image_channels,
            **dit,
        )
        parts = self.options
        if image_channels:
            self.accepts = {**self.accepts, "image_channels": image_channels}
        if attention == "factorised" and parts.depth < 2:
            raise ValueError(
                f"backbone.depth={parts.depth} leaves no block for attention over time; use 2, or "
                "backbone.attention=full"
            )
        self.head_channels = parts.channels // parts.num_heads
        divisor = 8 if parts.rope and attention == "full" else 2
        if self.head_channels % divisor:
            raise ValueError(
                f"backbone.num_heads={parts.num_heads} gives heads of {self.head_channels} channels, but rotary "
                f"positions in time need a multiple of {divisor}; change backbone.num_heads or backbone.channels"
            )
        self.frames_per_patch, self.attention = frames_per_patch, attention

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        cond, frames, p = Condition() if cond is None else cond, x.shape[2], self.frames_per_patch
        _check_divides(frames, p)
        if cond.independent is not None and p > 1:
            raise ValueError(f"backbone.frames_per_patch={p} joins independent frames; use 1 to train on images too")
        rows = cond.of_frames(frames)
        tokens = self._embed(rows_of_frames(c_noise, frames), rows, x.dtype)  # (B F, 1 + V, C)
        tokens = reduce(tokens, "(b p) v c -> b v c", "mean", p=p)
        of_patches = rows[::p]
        if rows.image is not None:
            of_patches = replace(of_patches, image=rearrange(rows.image, "(b p) c h w -> b (c p) h w", p=p))
        x = rearrange(x, "b c (f p) h w -> (b f) (c p) h w", p=p)
        clips = clips_of(frames // p, cond.independent)
        h, deep = self._forward_images(x, tokens, of_patches, clips, reuse=reuse)
        output = rearrange(h, "(b f) (c p) h w -> b c (f p) h w", f=frames // p, p=p)  # (B, out_channels, F, H, W)
        return output if reuse is None else (output, deep)

    def _attentions(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips | None) -> list[AttentionLayout]:
        assert clips is not None
        return _ATTENTIONS[self.attention](self, grid, extras, h, clips)

    def _factorised(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips) -> list[AttentionLayout]:
        rotation = temporal_rotation(clips.frames, self.head_channels, h.device, h.dtype)
        blocks = super()._attentions(grid, extras, h, clips)
        return [(rotation, over_time(clips)) if index % 2 else block for index, block in enumerate(blocks)]

    def _full(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips) -> list[AttentionLayout]:
        in_space = self.rope is not None
        rotation = space_time_rotation(clips.frames, grid, self.head_channels, extras, in_space, h.device, h.dtype)
        return [(rotation, over_space_and_time(clips, h.shape[1]))] * len(self.blocks)


_ATTENTIONS: dict[SpaceTime, Callable[..., list[AttentionLayout]]] = {
    "factorised": DiT3D._factorised,
    "full": DiT3D._full,
}


def _check_divides(frames: int, frames_per_patch: int) -> None:
    """Raise a ValueError unless the patches divide the frames."""
    if frames % frames_per_patch:
        fitting = [str(size) for size in range(1, frames + 1) if frames % size == 0]
        raise ValueError(
            f"backbone.frames_per_patch={frames_per_patch} does not divide {frames} frames; use {' or '.join(fitting)}"
        )
