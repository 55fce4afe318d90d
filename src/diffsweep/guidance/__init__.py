"""Guidance: wraps a denoiser and is one."""

from diffsweep.guidance.autoguidance import AutoGuidance
from diffsweep.guidance.none import unguided

__all__ = ["AutoGuidance", "unguided"]
