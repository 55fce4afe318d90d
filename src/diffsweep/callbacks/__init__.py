"""Lightning callbacks: weight average, pictures, losses by time, progress, checkpoints, a stop when the loss is NaN."""

from diffsweep.callbacks.ema import EMA, averaged_weights
from diffsweep.callbacks.finite import LossIsNaN, StopOnNaN
from diffsweep.callbacks.loss_by_time import LossByTime
from diffsweep.callbacks.progress import TrainingProgress
from diffsweep.callbacks.sample_grid import SampleGrid, log_picture

__all__ = [
    "EMA",
    "LossByTime",
    "LossIsNaN",
    "SampleGrid",
    "StopOnNaN",
    "TrainingProgress",
    "averaged_weights",
    "log_picture",
]
