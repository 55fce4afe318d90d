"""Networks: ``output = backbone(x, c_noise, cond)``."""

from diffsweep.backbones.dit import DiT
from diffsweep.backbones.unet import UNet
from diffsweep.backbones.uvit import UViT

__all__ = ["DiT", "UNet", "UViT"]
