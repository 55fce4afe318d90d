"""Which times a training batch looks at: maps from uniform numbers to times with importance weights."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffsweep.schedules import Schedule


class TimeSampling(ABC):
    """A density over training times."""

    @abstractmethod
    def __call__(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times and importance weights, each (B,), for ``u`` (B,), uniform in [0, 1); the mean weight is 1."""


class Uniform(TimeSampling):
    """All times alike: the grid of a discrete schedule, the interval of a continuous one."""

    def __call__(self, schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.time_at(u), torch.ones_like(u)


def stratified(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """One number in each of ``count`` equal cells of [0, 1), at its middle, in an order that looks random: (count,).

    The order is that of the golden-ratio sequence, so that neighbouring samples see distant times. Deterministic.
    """
    golden = torch.arange(count, dtype=torch.float64) * 0.6180339887498949
    return ((golden % 1).argsort().argsort().to(dtype) + 0.5) / count
