"""Lightning callbacks: weight averages, pictures, losses by time, progress, checkpoints, sharded training."""

from diffsweep.callbacks.ema import EMA, averaged_weights
from diffsweep.callbacks.finite import LossIsNaN, StopOnNaN
from diffsweep.callbacks.loss_by_time import LossByTime
from diffsweep.callbacks.meter import STEPS_PER_SECOND, TrainingMeter
from diffsweep.callbacks.overflow import GradientsOverflow, StopOnOverflow
from diffsweep.callbacks.power_averages import PowerAverages
from diffsweep.callbacks.progress import TrainingProgress
from diffsweep.callbacks.rounds import BeginRounds
from diffsweep.callbacks.run_logger import RunLogger, log_picture
from diffsweep.callbacks.sample_grid import SampleGrid
from diffsweep.callbacks.sharded_training import ShardedStrategy

__all__ = [
    "EMA",
    "STEPS_PER_SECOND",
    "BeginRounds",
    "GradientsOverflow",
    "LossByTime",
    "LossIsNaN",
    "PowerAverages",
    "RunLogger",
    "SampleGrid",
    "ShardedStrategy",
    "StopOnNaN",
    "StopOnOverflow",
    "TrainingMeter",
    "TrainingProgress",
    "averaged_weights",
    "log_picture",
]
