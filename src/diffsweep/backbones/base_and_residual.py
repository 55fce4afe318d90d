r"""Two networks for clips whose frames share a part of their noise (VideoFusion, Luo et al. 2023, arXiv:2303.08320).

The noise of frame i is :math:`\epsilon^i = \sqrt{\lambda_i} b + \sqrt{1 - \lambda_i} r^i`, with a base b that all
frames share and a residual :math:`r^i` of each frame. One network predicts b from a single frame, another all
residuals.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.backbones.base import Backbone
from diffsweep.diffusion import ClipNoise, Condition, SharedNoise


class BaseAndResidual(Backbone):
    r"""A backbone for clips whose base network predicts the shared noise and whose residual network predicts the rest.

    The predicted noise of frame i of F (VideoFusion, arXiv:2303.08320) is

    .. math:: \hat\epsilon^i = \sqrt{\lambda_i} \, \hat b(x_t^k) + \sqrt{1 - \lambda_i} \, \hat r^i(x_t, \hat b),
       \qquad k = \lfloor F / 2 \rfloor

    with the weights :math:`\lambda_i` of :class:`~diffsweep.diffusion.SharedNoise`. The base network reads the middle
    frame k alone, once per clip. With ``noise.key_frame=true`` the base is the noise of that frame (:math:`\lambda_k =
    1`): a network that was trained on images can serve as the base network unchanged, and its output is the prediction
    for frame k. Both networks are trained by the one loss of the clip's noise.

    Deliberate differences from the paper: The paper subtracts :math:`\sqrt{\lambda_i} \sigma_t \hat b` from frame i
    before the second network reads it. A backbone does not know :math:`\sigma_t`, so here the second network reads
    :math:`\hat b` as further channels of each frame. And the gradients of all frames reach the base network, through
    both uses of :math:`\hat b`; to freeze a pretrained one, set ``requires_grad`` of its parameters to False.

    Args:
        base: a network for images (B, C, H, W), such as :class:`~diffsweep.backbones.UNet`.
        residual: makes the network for clips (B, ``in_channels``, F, H, W), given ``in_channels``; such as
            :class:`~diffsweep.backbones.UNet3D`.
        noise: the noise of the diffusion process, a :class:`~diffsweep.diffusion.SharedNoise`.
        in_channels: channels of x.
        out_channels: channels of the output.

    Attributes:
        accepts: the parts of a condition that either network reads, with their sizes.

    Raises:
        ValueError: the noise has no shared base, ``base`` is a network for clips, or ``residual`` makes one for images.
    """

    requires = frozenset({"clips", "eps_output"})
    supports = frozenset({"clips"})

    def __init__(
        self,
        base: Backbone,
        residual: Callable[..., Backbone],
        noise: ClipNoise,
        in_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        if not isinstance(noise, SharedNoise):
            raise ValueError(
                f"backbone.noise is {type(noise).__name__}, whose frames share no base; use noise=shared, or a single "
                "network (backbone=unet3d)"
            )
        if "clips" in base.supports:
            raise ValueError("backbone.base is a network of clips, but it reads one frame; use unet, dit or uvit")
        self.base, self.residual, self.noise = base, residual(in_channels=in_channels + out_channels), noise
        if "clips" not in self.residual.supports:
            raise ValueError("backbone.residual is a network of images, but it reads clips; use unet3d or dit3d")
        self.accepts = {**base.accepts, **self.residual.accepts}

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        if cond is not None and cond.independent is not None:
            raise ValueError(
                "images beside a clip do not share its base noise; use model.images_per_clip=0, or a single network"
            )
        count, frames = len(x), x.shape[2]
        k = frames // 2
        of_frame = None if cond is None else cond.of_frames(frames)[torch.arange(count, device=x.device) * frames + k]
        base = self.base(x[:, :, k], c_noise if c_noise.ndim == 1 else c_noise[:, k], of_frame)
        base = base[:, :, None].expand(-1, -1, frames, -1, -1)  # (B, out_channels, F, H, W)
        residual = self.residual(torch.cat([x, base], dim=1), c_noise, cond)
        of_base, of_residual = (part[:, None, None].to(x.device, x.dtype) for part in self.noise.weights(frames))
        return of_base * base + of_residual * residual
