"""Checkpoints: plain tensors and plain types, written atomically, read without running anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from diffsweep.files import write_atomically
from diffsweep.runs.errors import UserError

FOLDER = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoints through the one atomic writer: a kill leaves the old file or the new one."""

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
    """A checkpoint on the CPU; nothing in it is executed.

    Raises:
        UserError: there is none, or the file is not whole.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint at {path}; the run has not saved one yet")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    return checkpoint
