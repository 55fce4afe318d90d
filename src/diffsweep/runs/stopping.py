"""Ctrl-C and SIGTERM: training stops between two steps, so that the checkpoint is of a whole step."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from diffsweep.errors import Stopped
from diffsweep.runs.signals import CODES


class StopSignals(Callback):
    """Stop the process with exit code 130 or 143 on SIGINT or SIGTERM, while this is entered as a context manager.

    During training the signal waits for the optimizer step to end; then a checkpoint is saved and :class:`Stopped`, a
    SystemExit, is raised. A second signal, or one outside of training, raises it at once. The former handlers are
    restored at the end of the context.

    Args:
        checkpoint: the path of the checkpoint file.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.saved_at: int | None = None
        self._received: int | None = None
        self._training = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
            self._previous = {number: signal.getsignal(number) for number in CODES}
            self._install()
        return self

    def _install(self) -> None:
        for number in CODES:
            signal.signal(number, self._handle)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None or not self._training:
            raise Stopped(CODES[signal.Signals(number)])
        self._received = number

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = True
        if self._previous:  # Lightning has replaced ours by its own handler, which ends validation with exit code 0
            self._install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._received is not None and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.checkpoint)
            self.saved_at = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.saved_at is not None and self._received is not None:  # after the step's numbers have been logged
            self._training = False
            raise Stopped(CODES[signal.Signals(self._received)])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = False
        if self._received is not None:
            raise Stopped(CODES[signal.Signals(self._received)])
