"""What ``sample.py`` does with a trained model; ``conf/task/`` has an option for each."""

from diffsweep.tasks.clips import DoubleRate, Extend, Upscale
from diffsweep.tasks.images import Edit, Generate, Interpolate, Reconstruct, Task

__all__ = ["DoubleRate", "Edit", "Extend", "Generate", "Interpolate", "Reconstruct", "Task", "Upscale"]
