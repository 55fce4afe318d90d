r"""Guidance changes the estimates of a denoiser: it wraps a denoiser and is a denoiser itself.

.. math:: \tilde D(x_t, t, y) = D(x_t, t, y) + s(t) \, \Delta(x_t, t, y)

D is the estimate of x_0 (or eps, or the score) of the guided denoiser, y the condition, s the scale and :math:`\Delta`
the direction in which a guidance moves it. A sampler treats guided and other denoisers alike, and guidance can wrap
guidance.
"""

from diffsweep.guidance.autoguidance import AutoGuidance
from diffsweep.guidance.base import Guidance, guidances_of
from diffsweep.guidance.classifier import ClassifierGuidance
from diffsweep.guidance.classifier_free import ClassifierFreeGuidance
from diffsweep.guidance.composition import composed
from diffsweep.guidance.injected import Injected
from diffsweep.guidance.injections import CrossAttentionMaps, Injection, ResidualFeatures, SelfAttentionMaps
from diffsweep.guidance.none import unguided
from diffsweep.guidance.reconstruction import Reconstruction
from diffsweep.guidance.repaint import RePaint
from diffsweep.guidance.replacement import Replacement
from diffsweep.guidance.scale_input import EachScale, ScaleInput, guided_by_input
from diffsweep.guidance.windows import Window, between, filled, windows

__all__ = [
    "AutoGuidance",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "CrossAttentionMaps",
    "EachScale",
    "Guidance",
    "Injected",
    "Injection",
    "RePaint",
    "Reconstruction",
    "Replacement",
    "ResidualFeatures",
    "ScaleInput",
    "SelfAttentionMaps",
    "Window",
    "between",
    "composed",
    "filled",
    "guidances_of",
    "guided_by_input",
    "unguided",
    "windows",
]
