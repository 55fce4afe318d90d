"""Networks: ``output = backbone(x, c_noise, cond)``, and encoders: ``features, logits = backbone(x, c_noise)``."""

from diffsweep.backbones.dit import DiT
from diffsweep.backbones.encoder_unet import Encoder, EncoderUNet
from diffsweep.backbones.unet import UNet
from diffsweep.backbones.uvit import UViT

__all__ = ["DiT", "Encoder", "EncoderUNet", "UNet", "UViT"]
