"""Conditionings, which map a batch to what the network is conditioned on: ``cond = conditioning(batch)``.

A network that models p(x_0 | c) takes the condition c beside x_t and t. Each class of this package makes c of one kind
of annotation of the samples (classes, captions, images, numbers) and drops it for some training samples, so that
guidance has a null condition.
"""

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.class_label import ClassLabel
from diffsweep.conditioning.class_token import ClassToken
from diffsweep.conditioning.control import ControlImages, mean_agreement
from diffsweep.conditioning.image import ImageConditioning, ImageFeatures
from diffsweep.conditioning.image_encoder import CLIPImageEncoder, ImageEncoder, Patches
from diffsweep.conditioning.none import Unconditional
from diffsweep.conditioning.pretrained_text import CLIPTextEncoder, T5TextEncoder
from diffsweep.conditioning.scalars import Joint, Scalars
from diffsweep.conditioning.style_attention import StyleAttention
from diffsweep.conditioning.text import TextConditioning
from diffsweep.conditioning.text_encoder import Encoded, TextEncoder
from diffsweep.conditioning.word_encoder import WordEncoder

__all__ = [
    "CLIPImageEncoder",
    "CLIPTextEncoder",
    "ClassLabel",
    "ClassToken",
    "Conditioning",
    "ControlImages",
    "Encoded",
    "ImageConditioning",
    "ImageEncoder",
    "ImageFeatures",
    "Joint",
    "Patches",
    "Scalars",
    "StyleAttention",
    "T5TextEncoder",
    "TextConditioning",
    "TextEncoder",
    "Unconditional",
    "WordEncoder",
    "mean_agreement",
]
