"""Networks: ``output = backbone(x, c_noise, cond)``, and encoders: ``features, logits = backbone(x, c_noise)``."""

from diffsweep.backbones.base import Backbone
from diffsweep.backbones.base_and_residual import BaseAndResidual
from diffsweep.backbones.dit import DiT
from diffsweep.backbones.dit3d import DiT3D
from diffsweep.backbones.encoder_unet import ClassifierBackbone, EncoderUNet
from diffsweep.backbones.unet import UNet
from diffsweep.backbones.unet3d import UNet3D
from diffsweep.backbones.uvit import UViT

__all__ = ["Backbone", "BaseAndResidual", "ClassifierBackbone", "DiT", "DiT3D", "EncoderUNet", "UNet", "UNet3D", "UViT"]
