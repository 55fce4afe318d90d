"""Pictures of samples during training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from diffsweep import pictures
from diffsweep.capabilities import Part


class SampleGrid(Callback, Part):
    """Save a picture of the model's samples, or of an autoencoder's reconstructions, after each validation.

    The files are ``step_*.png`` with the number of the step, and for clips ``.gif`` and, with PyAV, ``.mp4``. The
    picture goes to W&B too, if the run logs to it. The model has its averaged weights, as in validation.

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
        log_picture(trainer.loggers, "samples", pictures.save_shown(pl_module.draw_shown, shown, path)[0])


def log_picture(loggers: Sequence[Logger], name: str, path: Path) -> None:
    """Log the file of a picture to W&B, a PNG as an image and any other file, a GIF, as a video.

    Args:
        loggers: the loggers of a run; those that are not W&B's are skipped.
        name: the name under which it is logged.
        path: the file.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and path.suffix == ".png":
            logger.log_image(name, [str(path)])
        elif isinstance(logger, WandbLogger):
            logger.log_video(name, [str(path)], format=["gif"])
