"""The 3D U-Net of video diffusion models, factorised over space and time (Ho et al. 2022, arXiv:2204.03458).

Convolutions, norms and attention over space are those of a 2D U-Net on each frame; attention over time lies between
them.
"""

from typing import Any, Literal

from einops import rearrange
from torch import Tensor

from diffsweep.backbones.base import Reuse, one_of
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

# whether stages without attention over space have attention over time too
_PLACES: dict[TemporalPlace, bool] = {"spatial": False, "all": True}


class UNet3D(UNet):
    """A 2D U-Net on each frame, with attention over time in between, (B, C, F, H, W) to (B, out_channels, F, H, W).

    The 3 x 3 convolutions act as 1 x 3 x 3 ones, attention is over space, and norms are over single frames. The layers
    over time start as the identity, so that the initial network is a 2D U-Net on each frame, and the weights of a
    :class:`UNet` can be loaded with ``strict=False``. Positions in time are relative, so that clips of any length can
    be given. Each frame may have its own time and its own class. Frames that are ``independent`` (a field of
    :class:`~diffsweep.diffusion.Condition`) are treated as single images; since norms are over single frames, they do
    not influence the clip.

    Args:
        num_frames: frames of the training clips; larger distances in time share the bias of the largest one in these
            clips. None: not fixed.
        temporal_attention: ``spatial``: after each attention over space, as in the paper (Ho et al. 2022,
            arXiv:2204.03458); ``all``: after all residual blocks.
        position_bias: the learned biases of attention over time: one for each of T5's ``buckets`` of distances in time,
            or one for each ``distance``.
        temporal_convolution: add convolutions over neighbouring frames after all residual blocks. They are not in the
            paper, and learn motion sooner than attention does.
        unet: the arguments of :class:`UNet`.

    Raises:
        ValueError: ``spatial`` if no level has attention over space, or any that :class:`UNet` raises.
    """

    requires = frozenset({"clips"})
    supports = frozenset({"clips", "cached_features"})

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
                "backbone.temporal_attention=spatial follows attention over space, which no level has; set "
                "backbone.attention_factors, or use backbone.temporal_attention=all"
            )
        for stage in attending:
            heads = self.options.heads(stage.width)
            stage.temporal = TemporalAttention(stage.width, heads, self.options.norm, position_bias, num_frames)
        for stage in self.stages() if temporal_convolution else ():
            steps = [TemporalConvolution(stage.width, self.options.norm), stage.temporal]
            stage.temporal = TemporalSteps(*(step for step in steps if step is not None))

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, reuse: Reuse | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        cond, frames = Condition() if cond is None else cond, x.shape[2]
        images = rearrange(x, "b c f h w -> (b f) c h w")
        times, clips = rows_of_frames(c_noise, frames), clips_of(frames, cond.independent)
        h, deep = self._forward_images(images, times, cond.of_frames(frames), clips, reuse=reuse)
        output = rearrange(h, "(b f) c h w -> b c f h w", f=frames)  # (B, out_channels, F, H, W)
        return output if reuse is None else (output, deep)
