"""The course of training beside its losses: learning rate, gradient norm, decay of the average, and speed."""

import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from diffsweep.callbacks.ema import EMA
from diffsweep.layers.sharding import whole

STEPS_PER_SECOND = "train/steps_per_second"


class TrainingMeter(Callback):
    r"""Log how training proceeds, at the steps at which training metrics are logged, and at no others.

    Logged are ``train/lr``, the learning rate of the step (of the first group of parameters); ``train/grad_norm``, the
    norm :math:`\lVert g \rVert_2` of the gradient of all parameters before it is clipped; ``train/ema_decay``, the
    decay of the averaged weights, if any are kept; and ``train/steps_per_second``, since the last log, without
    validation and the time that loggers take.
    Nothing is computed at other steps, and the device is waited for by the loggers alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of_step: dict[str, float | Tensor] = {}  # of the optimizer step that is logged next
        self._step = 0
        self._steps, self._seconds = 0, 0.0  # since the last log, without pauses
        self._since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._steps, self._seconds = trainer.global_step, 0, 0.0
        self._since = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if _is_logged(trainer, trainer.global_step + 1):
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            norm = whole(torch.nn.utils.get_total_norm(gradients))
            self._of_step = {"train/lr": optimizer.param_groups[0]["lr"], "train/grad_norm": norm}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since is None:  # after loggers, such as one that starts W&B
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients are still accumulating
            return
        self._steps += trainer.global_step - self._step
        self._step = trainer.global_step
        if not _is_logged(trainer, self._step):
            return
        numbers: dict[str, Any] = dict(self._of_step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA):
                numbers["train/ema_decay"] = callback.decay_at(self._step)
        self._pause()
        numbers[STEPS_PER_SECOND] = self._steps / max(self._seconds, 1e-9)
        self._of_step, self._steps, self._seconds = {}, 0, 0.0
        pl_module.log_dict(numbers)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def _pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None


def _is_logged(trainer: Trainer, step: int) -> bool:
    """Return whether training metrics are logged after so many optimizer steps."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return step % every == 0
