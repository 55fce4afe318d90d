"""The setting ``trainer.profiler``: where the time of a training goes, in files of the run's folder ``profile``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from diffsweep.callbacks.profilers import FOLDER, PhaseProfiler
from diffsweep.callbacks.traces import PROFILERS
from diffsweep.phases import profiled
from diffsweep.processes import starts_first


@contextmanager
def profiling(cfg: DictConfig, model: nn.Module) -> Iterator[PhaseProfiler | None]:
    """Profile the body of a ``with`` statement as ``trainer.profiler`` chooses, and write the files at its end.

    They are written after an error too. Of several processes the first is profiled.

    Args:
        cfg: the configuration of the run.
        model: the model, whose submodules a trace names.

    Yields:
        the profiler, for Lightning's Trainer; None without one.
    """
    word = cfg.trainer.get("profiler")
    if not isinstance(word, str) or not starts_first():
        yield None
        return
    batches = cfg.trainer.max_steps * cfg.trainer.accumulate_grad_batches
    profiler = PROFILERS[word](Path(cfg.paths.run_dir) / FOLDER, batches)
    profiler.watch(model)
    try:
        with profiled(profiler.profile):
            yield profiler
    finally:
        profiler.describe()
