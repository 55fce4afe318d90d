"""Autoencoders, which map pixels to the space in which diffusion takes place, and the losses of their training."""

from diffsweep.autoencoders.adversarial import AdversarialLoss, PatchDiscriminator, adaptive_weight
from diffsweep.autoencoders.base import Autoencoder, LearnedAutoencoder, Reconstructed, by_frame, frames_of
from diffsweep.autoencoders.first_stage import FirstStage
from diffsweep.autoencoders.identity import Identity
from diffsweep.autoencoders.kl import KLAutoencoder
from diffsweep.autoencoders.low_resolution import LowResolution
from diffsweep.autoencoders.none import nothing
from diffsweep.autoencoders.perceptual import LPIPS, ClassifierPerceptual, Perceptual
from diffsweep.autoencoders.public import PublicAutoencoder
from diffsweep.autoencoders.tiling import decode_in_tiles, in_slices
from diffsweep.autoencoders.vq import VQAutoencoder

__all__ = [
    "LPIPS",
    "AdversarialLoss",
    "Autoencoder",
    "ClassifierPerceptual",
    "FirstStage",
    "Identity",
    "KLAutoencoder",
    "LearnedAutoencoder",
    "LowResolution",
    "PatchDiscriminator",
    "Perceptual",
    "PublicAutoencoder",
    "Reconstructed",
    "VQAutoencoder",
    "adaptive_weight",
    "by_frame",
    "decode_in_tiles",
    "frames_of",
    "in_slices",
    "nothing",
]
