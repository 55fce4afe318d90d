"""diffsweep: an experiment framework for diffusion models on Lightning and Hydra.

From Python, under the same checks as on the command line::

    cfg = diffsweep.compose("train", ["schedule=linear", "trainer.max_steps=500"])
    hours = diffsweep.plan(cfg).seconds / 3600  # predicted by a few steps
    run, metric = diffsweep.train(cfg)
    x = diffsweep.load(run).sample(16, seed=0)  # (16, C, H, W) in [-1, 1]
"""

import importlib
from typing import Any

__version__ = "0.2.0"
__all__ = ["compose", "load", "plan", "train"]


def __getattr__(name: str) -> Any:
    """Return one of the names above, which is imported on first use, since its own imports take seconds."""
    if name in __all__:
        return getattr(importlib.import_module("diffsweep.runs.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
