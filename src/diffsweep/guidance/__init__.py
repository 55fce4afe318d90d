"""Guidance: wraps a denoiser and is one."""

from diffsweep.guidance.autoguidance import AutoGuidance
from diffsweep.guidance.base import Guidance, guidances_of
from diffsweep.guidance.classifier import ClassifierGuidance
from diffsweep.guidance.classifier_free import ClassifierFreeGuidance
from diffsweep.guidance.composition import composed
from diffsweep.guidance.none import unguided
from diffsweep.guidance.reconstruction import Reconstruction
from diffsweep.guidance.replacement import Replacement
from diffsweep.guidance.windows import Window, between, filled, windows

__all__ = [
    "AutoGuidance",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Guidance",
    "Reconstruction",
    "Replacement",
    "Window",
    "between",
    "composed",
    "filled",
    "guidances_of",
    "unguided",
    "windows",
]
