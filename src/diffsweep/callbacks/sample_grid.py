"""Grids of samples while training."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger

from diffsweep import pictures


class SampleGrid(Callback):
    """After each validation, with its weights (the average), samples the same noise and saves ``samples/step_*.png``.

    Args:
        folder: where the pictures go.
        num_samples: images in a grid.
        seed: keys the noise, so that the grids of a run, and of runs that are compared, show the same samples.
        steps: sampler steps; fewer than the sampler's own keep training short. None for the sampler's own.
    """

    samples = True  # of what it shows: a model that generates

    def __init__(self, folder: str, num_samples: int = 36, seed: int = 0, steps: int | None = 25) -> None:
        self.folder, self.num_samples, self.seed, self.steps = Path(folder), num_samples, seed, steps

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        sampler = pl_module.sampler if self.steps is None else pl_module.sampler.with_steps(self.steps)
        indices = torch.arange(self.num_samples)
        data = getattr(trainer, "datamodule", None)
        _, cond = pl_module.request(indices, None if data is None else data.split("val"))
        x = pl_module.sample(indices, self.seed, cond, sampler)
        image = pictures.grid(x)
        pictures.save_png(image, self.folder / f"step_{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [image], step=None)
