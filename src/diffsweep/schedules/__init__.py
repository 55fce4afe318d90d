"""Noise schedules: ``alpha_t, sigma_t = schedule(t)`` of ``x_t = alpha_t x_0 + sigma_t eps``, with t in [0, 1]."""

from diffsweep.schedules.alpha_bar import Cosine, SigmoidAlphaBar
from diffsweep.schedules.base import DiscreteSchedule, Level, Schedule
from diffsweep.schedules.beta import Constant, Exponential, Linear, Quadratic, ScaledLinear, Sigmoid
from diffsweep.schedules.continuous import EDM, VE, VP, CosineContinuous, Flow, LogSNRSchedule, SubVP
from diffsweep.schedules.learned import Learned, minimise_variance

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Constant",
    "Cosine",
    "CosineContinuous",
    "DiscreteSchedule",
    "Exponential",
    "Flow",
    "Learned",
    "Level",
    "Linear",
    "LogSNRSchedule",
    "Quadratic",
    "ScaledLinear",
    "Schedule",
    "Sigmoid",
    "SigmoidAlphaBar",
    "SubVP",
    "minimise_variance",
]
