"""Checkpoints of plain tensors and types, written atomically and read without executing anything.

A run keeps two: the last and the best.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO

from diffsweep.errors import UserError
from diffsweep.files import write_atomically

FOLDER = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
FORMAT = 2  # of the content of a checkpoint; 1, of releases before 0.3, has no key for it and no position of the data
KEY = "format"


class AtomicCheckpoints(CheckpointIO):
    """A Lightning plugin that writes checkpoints atomically: a kill leaves the old file or the new one, never a part.

    Reading is by :func:`read_checkpoint`, which executes nothing of a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        write_atomically(path, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, with its tensors on the CPU; nothing in it is executed.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}; the run has not saved one yet")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    if (written := checkpoint.get(KEY, 1)) > FORMAT:
        raise UserError(
            f"the checkpoint {path} has format {written}, of a newer diffsweep; this one reads formats up to {FORMAT}"
        )
    return checkpoint


class KeepCheckpoints(Callback):
    """Save ``last.ckpt`` after each validation and at the end, and ``best.ckpt`` at the lowest validation loss.

    It takes the place of Lightning's ``ModelCheckpoint``, which numbers its files, links one to another and deletes old
    ones; the names of these two files never change.

    Args:
        folder: the folder of the two files.
    """

    monitor = "val/loss"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.best = self.latest = float("inf")
        self._saved_at = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        self.latest = score
        if score < self.best:
            self.best = score
            trainer.save_checkpoint(self.folder / BEST)
        self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved_at != trainer.global_step:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_at = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = FORMAT

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.latest = state_dict["best"], state_dict["latest"]
