"""Conditioning: ``cond = conditioning(batch)``, a Condition or None. Label dropout lives here only."""

from diffsweep.conditioning.none import Unconditional

__all__ = ["Unconditional"]
