"""Autoencoders: the space where diffusion happens."""

from diffsweep.autoencoders.identity import Identity

__all__ = ["Identity"]
