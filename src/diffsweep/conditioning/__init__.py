"""Conditioning: ``cond = conditioning(batch)``, a Condition or None. Label dropout lives here only."""

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.class_label import ClassLabel
from diffsweep.conditioning.image import ImageConditioning, ImageFeatures
from diffsweep.conditioning.none import Unconditional
from diffsweep.conditioning.pretrained_text import CLIPTextEncoder, T5TextEncoder
from diffsweep.conditioning.scalars import Joint, Scalars
from diffsweep.conditioning.text import TextConditioning
from diffsweep.conditioning.text_encoder import Encoded, TextEncoder
from diffsweep.conditioning.word_encoder import WordEncoder

__all__ = [
    "CLIPTextEncoder",
    "ClassLabel",
    "Conditioning",
    "Encoded",
    "ImageConditioning",
    "ImageFeatures",
    "Joint",
    "Scalars",
    "T5TextEncoder",
    "TextConditioning",
    "TextEncoder",
    "Unconditional",
    "WordEncoder",
]
