"""The 3D U-Net of video diffusion, factorised over space and time (Ho et al. 2022, arXiv:2204.03458)."""

from typing import Any, Literal

from einops import rearrange
from torch import Tensor

from diffsweep.backbones.base import one_of
from diffsweep.backbones.unet import UNet
from diffsweep.diffusion import Condition
from diffsweep.layers import (
    PositionBias,
    TemporalAttention,
    TemporalConvolution,
    TemporalSteps,
    clips_of,
    rows_of_frames,
)

TemporalPlace = Literal["spatial", "all"]

_PLACES: dict[TemporalPlace, bool] = {
    "spatial": False,
    "all": True,
}  # whether stages without spatial attention have it too


class UNet3D(UNet):
    """The 2D U-Net applied to each frame, with attention over time between: its 3x3 convolutions are 1x3x3 ones, its attention is over
    space, its norms are those of each frame.

    What sees time starts as the identity, so that at first the network is the 2D one on each frame: the weights of a :class:`UNet`
    can be loaded with ``strict=False``. Time is relative: any
    number of frames can be given. Each frame may have its own time and its own class; frames that are ``independent`` (see
    :class:`~diffsweep.diffusion.Condition`) are images beside the clip.

    Args:
        num_frames: of the clips it is trained on; frames farther apart than these clips are long count as their ends. None: images.
        temporal_attention: after each ``spatial`` attention, as published, or after ``all`` residual blocks.
        position_bias: of distances in time: ``buckets`` as in T5, or one for each ``distance``.
        temporal_convolution: whether neighbouring frames are convolved too, after all residual blocks; it is not in the paper, and learns
            motion sooner than attention does.
        unet: all that a :class:`UNet` has.
    """

    requires = frozenset({"clips"})
    supports = frozenset({"clips"})

    def __init__(
        self,
        *,
        num_frames: int | None = None,
        temporal_attention: TemporalPlace = "spatial",
        position_bias: PositionBias = "buckets",
        temporal_convolution: bool = False,
        **unet: Any,
    ) -> None:
        super().__init__(**unet)
        one_of("temporal_attention", temporal_attention, _PLACES)
        attending = [stage for stage in self.stages() if _PLACES[temporal_attention] or stage.attention is not None]
        if not attending:
            raise ValueError(
                "backbone.temporal_attention=spatial follows attention over space, which no level has: no frame would see another; "
                "set backbone.attention_factors, or use temporal_attention=all"
            )
        for stage in attending:
            heads = self.options.heads(stage.width)
            stage.temporal = TemporalAttention(stage.width, heads, self.options.norm, position_bias, num_frames)
        for stage in self.stages() if temporal_convolution else ():
            steps = [TemporalConvolution(stage.width, self.options.norm), stage.temporal]
            stage.temporal = TemporalSteps(*(step for step in steps if step is not None))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        cond, frames = Condition() if cond is None else cond, x.shape[2]
        images = rearrange(x, "b c f h w -> (b f) c h w")
        clips = clips_of(frames, cond.independent)
        h = self._images(images, rows_of_frames(c_noise, frames), cond.of_frames(frames), clips)
        return rearrange(h, "(b f) c h w -> b c f h w", f=frames)  # (B, out_channels, F, H, W)
