"""Two networks for the noise that frames share and the noise that each has of its own (VideoFusion, Luo et al. 2023, arXiv:2303.08320)."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffsweep.backbones.base import Backbone
from diffsweep.diffusion import ClipNoise, Condition, SharedNoise


class BaseAndResidual(Backbone):
    r"""A network of images says the base of a clip's noise, a network of clips the residuals (VideoFusion, arXiv:2303.08320):

    .. math:: \hat\epsilon^i = \sqrt{\lambda_i} \, \hat b(x_t^k) + \sqrt{1 - \lambda_i} \, \hat r^i(x_t, \hat b), \qquad k = \lfloor F / 2 \rfloor

    with the weights of :class:`~diffsweep.diffusion.SharedNoise`. The base network sees the middle frame k alone, once a clip. With
    ``noise.key_frame=true`` the base is that frame's noise, so a network that was trained on images is a base network as it is, and what is
    said of that frame is what it says. Both learn together from the one loss of the clip's noise.

    Differences from the paper, kept on purpose. It takes :math:`\sqrt{\lambda_i} \sigma_t \hat b` away from frame i before the second network sees it.
    A backbone is not told :math:`\sigma_t`, so here the second network sees :math:`\hat b` as further channels beside each frame, of which that
    difference is a linear function. And gradients of all frames reach the base network, through both of its uses; to hold a pretrained one
    as it is, take its parameters' gradients away.

    Args:
        base: of images (B, C, H, W), such as a :class:`~diffsweep.backbones.UNet`.
        residual: makes the network of clips for so many ``in_channels``, such as :class:`~diffsweep.backbones.UNet3D`.
        noise: of the process.
        in_channels: channels of x.
        out_channels: channels of the output.

    Attributes:
        accepts: the parts of a condition that either takes, with their sizes.
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
                "backbone.noise: a base is of noise that all frames share, and this is not; use noise=shared, or one network (backbone=unet3d)"
            )
        if "clips" in base.supports:
            raise ValueError("backbone.base is a network of clips, and it sees one frame; use unet, dit or uvit")
        self.base, self.residual, self.noise = base, residual(in_channels=in_channels + out_channels), noise
        if "clips" not in self.residual.supports:
            raise ValueError("backbone.residual is a network of images, and it sees the clip; use unet3d or dit3d")
        self.accepts = {**base.accepts, **self.residual.accepts}

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        if cond is not None and cond.independent is not None:
            raise ValueError(
                "images beside a clip have no part in its base; use model.images_per_clip=0, or one network"
            )
        count, frames = len(x), x.shape[2]
        k = frames // 2
        of_frame = None if cond is None else cond.of_frames(frames)[torch.arange(count, device=x.device) * frames + k]
        base = self.base(x[:, :, k], c_noise if c_noise.ndim == 1 else c_noise[:, k], of_frame)
        base = base[:, :, None].expand(-1, -1, frames, -1, -1)  # (B, out_channels, F, H, W)
        residual = self.residual(torch.cat([x, base], dim=1), c_noise, cond)
        of_base, of_residual = (part[:, None, None].to(x.device, x.dtype) for part in self.noise.weights(frames))
        return of_base * base + of_residual * residual
