"""Pictures of samples during training."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from diffsweep import pictures
from diffsweep.callbacks.run_logger import log_picture
from diffsweep.capabilities import Part
from diffsweep.models import DiffusionModel


class SampleGrid(Callback, Part):
    """Save a picture of the model's samples, or of an autoencoder's reconstructions, after each validation.

    The files are ``step_*.png`` with the number of the step, and for clips ``.gif`` and, with PyAV, ``.mp4``. The
    picture goes to W&B and TensorBoard too, if the run logs to them. The model has its averaged weights, as in
    validation.

    Args:
        folder: the folder of the pictures.
        num_samples: images in a grid.
        seed: keys the noise, so that all grids of a run, and of runs with the same seed, show the same samples.
        steps: sampler steps; fewer than the sampler's own keep training short. None for the sampler's own.
    """

    requires = frozenset({"samples"})

    def __init__(self, folder: str, num_samples: int = 36, seed: int = 0, steps: int | None = 25) -> None:
        self.folder, self.num_samples, self.seed, self.steps = Path(folder), num_samples, seed, steps

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]  # None if loaders were passed to fit
        shown = pl_module.show(self.num_samples, data, self.seed, self.steps)
        path = self.folder / f"step_{trainer.global_step:06d}"
        files = pictures.save_shown(pl_module.drawing(self.num_samples, data), shown, path)
        caption = f"{len(shown[-1])} samples at step {trainer.global_step}{self._requested(pl_module, data)}"
        log_picture(trainer.loggers, "samples", files[0], trainer.global_step, caption)

    def _requested(self, pl_module: Any, data: Any) -> str:
        """Return in words what the samples of a grid are to show: their classes or captions, if any."""
        if not isinstance(pl_module, DiffusionModel) or data is None:
            return ""
        request = pl_module.request_for(torch.arange(self.num_samples), data.split("val"))
        if "caption" in request:
            return ": " + "; ".join(map(str, request["caption"]))
        return f": classes {' '.join(map(str, request['label'].tolist()))}" if "label" in request else ""
