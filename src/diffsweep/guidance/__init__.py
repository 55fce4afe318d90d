"""Guidance: wraps a denoiser and is one."""

from diffsweep.guidance.none import unguided

__all__ = ["unguided"]
