"""Progress of training: its steps, loss and speed."""

import time
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from diffsweep.models import Model
from diffsweep.progress import ProgressMeter


class TrainingProgress(ProgressBar):
    """Show the optimizer steps of training with the loss, the samples a second and the time left, on standard error.

    On a terminal it is a bar, elsewhere a line every 30 seconds, see :class:`~diffsweep.progress.ProgressMeter`. Only
    the first process of a run shows progress. Validation shows none of its own, and its time does not count in the
    speed.

    Args:
        refresh_every: steps between updates of the bar on a terminal; reading the loss waits for the device.
    """

    def __init__(self, refresh_every: int = 20) -> None:
        super().__init__()
        self.refresh_every = refresh_every
        self._progress: ProgressMeter | None = None
        self._notes: Callable[[], list[str]] = list
        self._loss: Tensor | None = None
        self._samples, self._seconds = 0, 0.0  # since something was shown, without validation
        self._since: float | None = None  # when training went on; None during validation

    def disable(self) -> None:
        self.refresh_every = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        shown = self.refresh_every > 0 and trainer.is_global_zero
        self._progress = ProgressMeter(
            "training", total, initial=trainer.global_step, details=self._details, disable=not shown
        )
        self._samples, self._seconds, self._since = 0, 0.0, time.perf_counter()
        self._notes = pl_module.progress_notes if isinstance(pl_module, Model) else list

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        progress = self._progress
        assert progress is not None
        self._samples += len(batch["position"]) * trainer.world_size
        self._loss = outputs["loss"]
        if not (progress.disabled or (progress.on_terminal and trainer.global_step % self.refresh_every)):
            progress.update(trainer.global_step - progress.count)

    def _details(self) -> list[str]:
        """Return the last loss, which is read from the device, and the samples a second since the last call."""
        self._pause()
        rate = [f"{self._samples / self._seconds:.0f} samples/s"] if self._samples and self._seconds else []
        self._samples, self._seconds, self._since = 0, 0.0, time.perf_counter()
        return [*self._notes(), *([] if self._loss is None else [f"loss {self._loss.item():.4f}"]), *rate]

    def _pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        progress = self._progress
        assert progress is not None
        if behind := trainer.global_step - progress.count:
            progress.update(behind)
        progress.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._progress is not None:
            self._progress.close(finished=False)
