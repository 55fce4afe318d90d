"""The 3D U-Net of video diffusion, factorised over space and time (Ho et al. 2022, arXiv:2204.03458)."""

import copy
from collections.abc import Mapping
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

    What sees time starts as the identity, so that at first the network is the 2D one on each frame. Time is relative: any
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

    frames = True

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
        self._see_time(num_frames, temporal_attention, position_bias, temporal_convolution)

    def _see_time(
        self, num_frames: int | None, place: TemporalPlace, position_bias: PositionBias, convolution: bool
    ) -> None:
        """Adds attention over time, and convolution. All else has been made before, and is what it is in the 2D network."""
        one_of("temporal_attention", place, _PLACES)
        attending = [stage for stage in self.stages() if _PLACES[place] or stage.attention is not None]
        if not attending:
            raise ValueError(
                "backbone.temporal_attention=spatial follows attention over space, which no level has: no frame would see another; "
                "set backbone.attention_factors, or use temporal_attention=all"
            )
        for stage in attending:
            heads = self.options.heads(stage.width)
            stage.temporal = TemporalAttention(stage.width, heads, self.options.norm, position_bias, num_frames)
        for stage in self.stages() if convolution else ():
            steps = [TemporalConvolution(stage.width, self.options.norm), stage.temporal]
            stage.temporal = TemporalSteps(*(step for step in steps if step is not None))

    @classmethod
    def inflate(
        cls,
        unet: UNet,
        num_frames: int | None = None,
        temporal_attention: TemporalPlace = "spatial",
        position_bias: PositionBias = "buckets",
        temporal_convolution: bool = False,
    ) -> "UNet3D":
        """The 3D network of a 2D one, with a copy of its weights: of each frame it says the same."""
        network = cls.__new__(cls)
        network.__dict__ = copy.deepcopy(unet).__dict__
        network._see_time(num_frames, temporal_attention, position_bias, temporal_convolution)
        example = next(unet.parameters())
        return network.to(example.device, example.dtype).train(unet.training)

    def load_images(self, state: Mapping[str, Tensor]) -> None:
        """The weights of a 2D U-Net of the same options, its ``state_dict()``; what sees time becomes the identity."""
        own = {name: weight for name, weight in self.state_dict().items() if ".temporal." in name}
        self.load_state_dict({**own, **state})
        for stage in self.stages():
            if stage.temporal is not None:
                stage.temporal.become_identity()  # type: ignore[operator]

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        cond, frames = Condition() if cond is None else cond, x.shape[2]
        images = rearrange(x, "b c f h w -> (b f) c h w")
        clips = clips_of(frames, cond.independent)
        h = self._images(images, rows_of_frames(c_noise, frames), cond.of_frames(frames), clips)
        return rearrange(h, "(b f) c h w -> b c f h w", f=frames)  # (B, out_channels, F, H, W)
