"""Tasks of ``sample.py``, which are uses of a trained model; ``conf/task/`` has an option for each."""

from diffsweep.tasks.base import Task
from diffsweep.tasks.control import Control
from diffsweep.tasks.counterfactual import Counterfactual
from diffsweep.tasks.double_rate import DoubleRate
from diffsweep.tasks.drawing import Drawn
from diffsweep.tasks.edit import Edit
from diffsweep.tasks.extend import Extend
from diffsweep.tasks.generate import Generate
from diffsweep.tasks.inpaint import Inpaint
from diffsweep.tasks.interpolate import Interpolate
from diffsweep.tasks.reconstruct import Reconstruct
from diffsweep.tasks.restore import Restore
from diffsweep.tasks.sampling import Job
from diffsweep.tasks.translate import Translate
from diffsweep.tasks.upscale import Upscale

__all__ = [
    "Control",
    "Counterfactual",
    "DoubleRate",
    "Drawn",
    "Edit",
    "Extend",
    "Generate",
    "Inpaint",
    "Interpolate",
    "Job",
    "Reconstruct",
    "Restore",
    "Task",
    "Translate",
    "Upscale",
]
