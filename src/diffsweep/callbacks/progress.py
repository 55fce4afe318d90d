"""The progress bar of training."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class TrainingProgress(ProgressBar):
    """One bar over optimizer steps: time left, loss, samples a second.

    Args:
        refresh_every: steps between updates; reading the loss waits for the device.
    """

    def __init__(self, refresh_every: int = 20) -> None:
        super().__init__()
        self.refresh_every = refresh_every
        self._bar: Any = None

    def disable(self) -> None:
        self.refresh_every = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        shown = self.refresh_every > 0 and trainer.is_global_zero
        self._bar = tqdm(
            total=total,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not shown,
        )
        self._seen, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += len(batch["position"]) * trainer.world_size
        if self._bar.disable or trainer.global_step % self.refresh_every:
            return
        rate = self._seen / (time.perf_counter() - self._since)
        self._bar.set_postfix_str(f"loss {outputs['loss'].item():.4f}, {rate:.0f} samples/s", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)
        self._seen, self._since = 0, time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self._since = 0, time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.update(trainer.global_step - self._bar.n)
        self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
