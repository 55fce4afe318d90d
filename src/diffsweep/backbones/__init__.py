"""Networks: denoisers ``output = backbone(x, c_noise, cond)``, classifiers ``features, logits = backbone(x, c_noise)``.

x is images (B, C, H, W) or clips (B, C, F, H, W), c_noise the times as the networks read them, (B,) or of each frame
(B, F), and cond a :class:`~diffsweep.diffusion.Condition`.
"""

from diffsweep.backbones.base import Backbone, Reuse
from diffsweep.backbones.base_and_residual import BaseAndResidual
from diffsweep.backbones.dit import DiT
from diffsweep.backbones.dit3d import DiT3D
from diffsweep.backbones.encoder_unet import ClassifierBackbone, EncoderUNet
from diffsweep.backbones.execution import Execution
from diffsweep.backbones.feature_cache import FeatureCache, NonUniformCache, UniformCache
from diffsweep.backbones.unet import UNet
from diffsweep.backbones.unet3d import UNet3D
from diffsweep.backbones.uvit import UViT

__all__ = [
    "Backbone",
    "BaseAndResidual",
    "ClassifierBackbone",
    "DiT",
    "DiT3D",
    "EncoderUNet",
    "Execution",
    "FeatureCache",
    "NonUniformCache",
    "Reuse",
    "UNet",
    "UNet3D",
    "UViT",
    "UniformCache",
]
