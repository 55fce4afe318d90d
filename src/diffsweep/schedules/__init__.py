"""Noise schedules: ``alpha_t, sigma_t = schedule(t)`` with ``t`` in [0, 1]."""

from diffsweep.schedules.alpha_bar import Cosine, SigmoidAlphaBar
from diffsweep.schedules.base import DiscreteSchedule, Schedule
from diffsweep.schedules.beta import Constant, Exponential, Linear, Quadratic, ScaledLinear, Sigmoid

__all__ = [
    "Constant",
    "Cosine",
    "DiscreteSchedule",
    "Exponential",
    "Linear",
    "Quadratic",
    "ScaledLinear",
    "Schedule",
    "Sigmoid",
    "SigmoidAlphaBar",
]
