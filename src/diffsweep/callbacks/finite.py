"""A guard that stops a run when its loss is NaN or infinite."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class LossIsNaN(FloatingPointError):  # noqa: N818 - names an outcome
    """The error that the training loss is NaN or infinite; the message has the steps between which it became so."""


class StopOnNaN(Callback):
    """Stop training by the error :class:`LossIsNaN` when a training loss is NaN or infinite.

    The losses are summed on the device. The sum is read when metrics are logged and before a checkpoint is saved, so
    that other steps do not wait for the device and no checkpoint has NaN weights. Training may go on for some steps
    until then.
    """

    def __init__(self) -> None:
        self._sum = torch.zeros(())
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sum = torch.zeros((), device=pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._sum += outputs["loss"].detach()
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if not torch.isfinite(self._sum):
            raise LossIsNaN(
                f"the loss became NaN or infinite between steps {self._step} and {trainer.global_step}; try a lower "
                "optimizer.lr, a smaller trainer.gradient_clip_val or a longer lr_scheduler.warmup_steps"
            )
        self._sum.zero_()
        self._step = trainer.global_step
