"""Diffusion transformers of video: patches of space and time, attention over both in turn or at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from einops import rearrange, reduce
from torch import Tensor

from diffsweep.backbones.base import at_least_1, one_of
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
    """A DiT over patches of space and time, with its blocks and its weights: blocks differ only in which tokens attend to each other.

    ``factorised``: those of a frame in the first block and every other one, those at the same place in the rest (Ma et al. 2024,
    arXiv:2401.03048, variant 1), linear in the number of frames; ``full``: all of a clip in every block, quadratic in it.

    Places in time are rotary angles (RoPE, arXiv:2104.09864), so that attention sees distances: any number of frames that the
    patches divide can be given. Each frame may have its own time and its own class; a patch of several has the mean of their
    embeddings.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        num_frames: of the clips it is trained on, which the patches must divide; None: images.
        frames_per_patch: length of a patch in time.
        attention: ``factorised`` or ``full``.
        image_channels: channels of ``cond.image``, which stand beside those of x; 0 for no image.
        dit: all else that a :class:`DiT` has. With ``rope`` there are rotary places in space too; in ``full`` attention they have half of
            the channels then.
    """

    requires = frozenset({"clips"})
    supports = frozenset({"clips"})

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
            _divided(num_frames, frames_per_patch)
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
                f"backbone.depth={parts.depth} leaves no block for attention over time; use 2, or backbone.attention=full"
            )
        self.head_channels = parts.channels // parts.num_heads
        turned = 8 if parts.rope and attention == "full" else 2
        if self.head_channels % turned:
            raise ValueError(
                f"backbone.num_heads={parts.num_heads} gives heads of {self.head_channels} channels, and rotary places in time need a "
                f"multiple of {turned}"
            )
        self.frames_per_patch, self.attention = frames_per_patch, attention

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        cond, frames, p = Condition() if cond is None else cond, x.shape[2], self.frames_per_patch
        _divided(frames, p)
        if cond.independent is not None and p > 1:
            raise ValueError(f"backbone.frames_per_patch={p} joins independent frames; use 1 to train on images too")
        rows = cond.of_frames(frames)
        tokens = self._told(rows_of_frames(c_noise, frames), rows, x.dtype)  # (B F, 1 or more, C)
        tokens = reduce(tokens, "(b p) v c -> b v c", "mean", p=p)
        of_patches = rows[::p]
        if rows.image is not None:
            of_patches = replace(of_patches, image=rearrange(rows.image, "(b p) c h w -> b (c p) h w", p=p))
        x = rearrange(x, "b c (f p) h w -> (b f) (c p) h w", p=p)
        h = self._images(x, tokens, of_patches, clips_of(frames // p, cond.independent))
        return rearrange(h, "(b f) (c p) h w -> b c (f p) h w", f=frames // p, p=p)  # (B, out_channels, F, H, W)

    def _attentions(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips | None) -> list[AttentionLayout]:
        assert clips is not None
        return _ATTENTIONS[self.attention](self, grid, extras, h, clips)

    def _in_turn(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips) -> list[AttentionLayout]:
        rotation = temporal_rotation(clips.frames, self.head_channels, h.device, h.dtype)
        blocks = super()._attentions(grid, extras, h, clips)
        return [(rotation, over_time(clips)) if index % 2 else block for index, block in enumerate(blocks)]

    def _at_once(self, grid: tuple[int, int], extras: int, h: Tensor, clips: Clips) -> list[AttentionLayout]:
        in_space = self.rope is not None
        rotation = space_time_rotation(clips.frames, grid, self.head_channels, extras, in_space, h.device, h.dtype)
        return [(rotation, over_space_and_time(clips, h.shape[1]))] * len(self.blocks)


_ATTENTIONS: dict[SpaceTime, Callable[..., list[AttentionLayout]]] = {
    "factorised": DiT3D._in_turn,
    "full": DiT3D._at_once,
}


def _divided(frames: int, frames_per_patch: int) -> None:
    """Or a ValueError."""
    if frames % frames_per_patch:
        fitting = [str(size) for size in range(1, frames + 1) if frames % size == 0]
        raise ValueError(
            f"backbone.frames_per_patch={frames_per_patch} does not divide {frames} frames; use {' or '.join(fitting)}"
        )
