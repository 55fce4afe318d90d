"""Samplers: walks from t = 1 to t = 0 over any denoiser."""

from diffsweep.samplers.ancestral import Ancestral
from diffsweep.samplers.base import Callback, Sampler, State
from diffsweep.samplers.ddim import DDIM

__all__ = ["DDIM", "Ancestral", "Callback", "Sampler", "State"]
