"""Conditioning: ``cond = conditioning(batch)``, a Condition or None. Label dropout lives here only."""

from diffsweep.conditioning.base import Conditioning
from diffsweep.conditioning.class_label import ClassLabel
from diffsweep.conditioning.none import Unconditional

__all__ = ["ClassLabel", "Conditioning", "Unconditional"]
