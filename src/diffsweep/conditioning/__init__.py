"""Conditioning: ``cond = conditioning(batch)``, a Condition or None. Label dropout lives here only."""

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.class_label import ClassLabel
from diffsweep.conditioning.image import ImageConditioning, ImageFeatures
from diffsweep.conditioning.none import Unconditional
from diffsweep.conditioning.scalars import Joint, Scalars

__all__ = ["ClassLabel", "Conditioning", "ImageConditioning", "ImageFeatures", "Joint", "Scalars", "Unconditional"]
