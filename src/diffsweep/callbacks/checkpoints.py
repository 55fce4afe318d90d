"""Checkpoints of plain tensors and types, which carry a hash, are written whole and read without executing anything.

A run keeps the last and the best. While it trains it also keeps the one before the last, in the space that the next
``last.ckpt`` needs while it is written: so a whole one to go on from is left if the disk damages ``last.ckpt``.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from diffsweep import shell
from diffsweep.callbacks.shards import check_shards, merged, remove_unused
from diffsweep.errors import UserError
from diffsweep.files import write_atomically
from diffsweep.tensor_files import DamagedFile, check_hash, read_tensors, saved_step, write_tensors

FOLDER = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NAMES = {"last": LAST, "best": BEST, "previous": PREVIOUS}  # by what users type
DAMAGED = "last.damaged"
FILES = (LAST, PREVIOUS, BEST, DAMAGED)
FORMAT = 2  # of the content of a checkpoint; 1, of releases before 0.3, has no key for it and no position of the data
SHARDED = 3  # of one whose large tensors are in further files
KEY = "format"


class AtomicCheckpoints(CheckpointIO):
    """A Lightning plugin that writes checkpoints atomically: a kill leaves the old file or the new one, never a part.

    A new ``last.ckpt`` leaves the old one as ``previous.ckpt``. Reading is by :func:`read_checkpoint`, which executes
    nothing of a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        if path.name == LAST and path.exists():
            previous = path.with_name(PREVIOUS)
            previous.unlink(missing_ok=True)  # its successor is whole on the disk since it was saved
            with contextlib.suppress(OSError):  # a file system without links keeps the best alone
                os.link(path, previous)
        write_tensors(path, checkpoint, checkpoint.get("global_step"))
        remove_unused(path.parent, FILES)

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
    """Return the content of a checkpoint, with its tensors whole and on the CPU; nothing in it is executed.

    Raises:
        UserError: the file, or a further one of it, does not exist, is damaged, has Python objects beside tensors, or
            is no checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}; the run has not saved one yet")
    content = read_tensors(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint: it has a {type(content).__name__} in place of a dict")
    if (written := content.get(KEY, 1)) > SHARDED:
        raise UserError(
            f"the checkpoint {path} has format {written}, of a newer diffsweep; this one reads formats up to {SHARDED}"
        )
    return {**merged(Path(path), content), KEY: FORMAT} if written == SHARDED else content


def read_weights(path: Path, fix: Callable[["Saved"], str]) -> dict[str, Any]:
    """Return the content of a checkpoint whose weights are used; if it is damaged, the error offers the newest other.

    Args:
        path: the file, in the folder of a run's checkpoints.
        fix: returns what to type to take another checkpoint in its place.

    Raises:
        UserError: the file does not exist, is damaged, or is no checkpoint of a model.
    """
    try:
        content = read_checkpoint(path)
    except DamagedFile as error:
        other = newest_whole(path.parent, path)
        how = fix(other) + _steps_lost(other, saved_step(path)) if other else "no other checkpoint here is whole"
        raise DamagedFile(f"{error}; {how}") from error
    weights, average = content.get("state_dict"), content.get("ema", {"weights": {}})
    if not (_is_of_tensors(weights) and isinstance(average, dict) and _is_of_tensors(average.get("weights"))):
        raise UserError(f"{path} is no checkpoint of a model: it has no weights under state_dict")
    return content


def _is_of_tensors(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
    )


class Saved(NamedTuple):
    """A checkpoint whose content is known to be whole.

    Attributes:
        path: its file.
        step: the optimizer step at which it was saved.
    """

    path: Path
    step: int


def newest_whole(folder: Path, damaged: Path) -> Saved | None:
    """Return the checkpoint of a run that was saved at the latest step and is whole; None if none is.

    Args:
        folder: the folder of the run's checkpoints.
        damaged: the one that is not considered.
    """
    found = [saved for name in NAMES.values() if (path := folder / name) != damaged and (saved := _whole(path))]
    return max(found, key=lambda saved: saved.step, default=None)


def _whole(path: Path) -> Saved | None:
    """Return a checkpoint if its file is whole."""
    if not path.is_file():
        return None
    try:
        step = saved_step(path) if check_hash(path) else None
        check_shards(path)
        return Saved(path, int(read_checkpoint(path)["global_step"]) if step is None else step)
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _copy(path: Path, file: IO[bytes]) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, file, 1 << 20)


def _steps_lost(other: Saved, step: int | None) -> str:
    """Return how many steps are lost with another checkpoint, in words; empty if this is unknown."""
    if step is None:
        return ""
    lost = max(0, step - other.step)
    return f" ({f'{lost:,}' if lost else 'no'} step{'s' * (lost != 1)} lost)"


def taking(damaged: Path, other: Saved) -> str:
    """Return the shell command that puts another checkpoint in the place of a damaged one, in a sentence."""
    return f"cp {shell.shown(other.path)} {shell.shown(damaged)} takes that of step {other.step:,} in its place"


def restore_last(folder: Path, reached: int | None = None) -> str | None:
    """Put the newest whole checkpoint of a run in the place of ``last.ckpt`` if that is damaged.

    The damaged file is kept as ``last.damaged``.

    Args:
        folder: the folder of the run's checkpoints.
        reached: the step that training has reached, if it is not in the damaged file.

    Returns:
        what was done and how many steps it costs, in a line; None if ``last.ckpt`` is whole.

    Raises:
        UserError: ``last.ckpt`` is damaged, and no other checkpoint is whole.
    """
    last = folder / LAST
    try:
        if check_hash(last):
            check_shards(last)
            return None
        read_checkpoint(last)
        return None
    except DamagedFile as error:
        step = saved_step(last) or reached
        other = newest_whole(folder, last)
        if other is None:
            raise DamagedFile(f"{error}; no other checkpoint in {shell.shown(folder)} is whole: train anew") from error
        kept = folder / DAMAGED
        kept.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(last, kept)
        write_atomically(last, lambda file: _copy(other.path, file))
        return (
            f"{error}; training goes on from {other.path.name} of step {other.step:,}"
            f"{_steps_lost(other, step)}, and the damaged file is kept as {shell.shown(kept)}"
        )


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
        if trainer.is_global_zero:  # the run has ended: nothing more is written in the space of one checkpoint
            (self.folder / PREVIOUS).unlink(missing_ok=True)
            remove_unused(self.folder, FILES)

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_at = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = FORMAT

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.latest = state_dict["best"], state_dict["latest"]
