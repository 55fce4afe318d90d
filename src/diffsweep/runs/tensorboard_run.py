"""The logger of TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageSequence
from torch import Tensor

from diffsweep import pictures
from diffsweep.callbacks import RunLogger
from diffsweep.datasets import Batch
from diffsweep.phases import LOGGING, counted_as
from diffsweep.runs.description import Description

FOLDER = "tensorboard"
FRAMES = 8  # of a clip that are shown, side by side
SAMPLES = 64


class TensorBoardRun(TensorBoardLogger, RunLogger):
    """The logger that writes a run's files for TensorBoard, with its configuration and results as hyperparameters.

    Args:
        description: the run's folder, into which the folder ``tensorboard`` is written, and its configuration.
    """

    def __init__(self, description: Description) -> None:
        super().__init__(description.directory, name=FOLDER, version="", default_hp_metric=False)
        self._config = description.config

    @counted_as(LOGGING)
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    def log_facts(self, facts: Mapping[str, float | str]) -> None:
        for name, value in facts.items():
            self.experiment.add_text(name, str(value))

    def log_picture(self, name: str, path: Path, step: int, caption: str) -> None:
        with Image.open(path) as picture:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)][:FRAMES]
        self.experiment.add_image(name, np.concatenate(frames, 1), step, dataformats="HWC")

    def log_samples(self, x: Tensor, request: Batch, step: int) -> None:
        shown = x[:SAMPLES] if x.ndim == 4 else x[:SAMPLES, :, 0]  # the first frame of clips
        picture = np.asarray(pictures.grid(shown).convert("RGB"))
        self.experiment.add_image("final_samples", picture, step, dataformats="HWC")

    def log_results(self, numbers: Mapping[str, float], step: int) -> None:
        super().log_results(numbers, step)
        self.log_hyperparams(self._config, {f"eval/{name}": value for name, value in numbers.items()}, step)

    @counted_as(LOGGING)
    def save(self) -> None:
        super().save()
        self.experiment.flush()
