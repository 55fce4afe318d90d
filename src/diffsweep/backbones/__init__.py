"""Networks: ``output = backbone(x, c_noise, cond)``."""

from diffsweep.backbones.unet import UNet

__all__ = ["UNet"]
