"""Which checkpoints a run keeps: the last and the best."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from diffsweep.runs.checkpoints import BEST, LAST


class KeepCheckpoints(Callback):
    """Saves ``last.ckpt`` after each validation and at the end, and ``best.ckpt`` where the validation loss is lowest.

    Args:
        folder: where they go.
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

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.latest = state_dict["best"], state_dict["latest"]
