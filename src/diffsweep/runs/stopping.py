"""Ctrl-C, SIGTERM and SIGUSR1: training stops between two steps, so that the checkpoint is of a whole step."""

import json
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from diffsweep.comparison.records import STOPPED
from diffsweep.errors import Stopped
from diffsweep.files import write_text
from diffsweep.layers.distributed import distributed, largest
from diffsweep.runs.signals import CODES, PREEMPTION, state_after

NONE = 0  # the number of no signal


class StopSignals(Callback):
    """Stop the process on Ctrl-C with exit code 130, on SIGTERM or SIGUSR1 with 143, while this context is entered.

    During training the signal waits for the optimizer step to end; then a checkpoint is saved and :class:`Stopped`, a
    SystemExit, is raised. In a validation the checkpoint is saved after the batch at hand, and the validation goes on,
    since its loss decides on the best checkpoint. Outside of training the signal raises at once.

    Of several processes (ranks), one or all may receive the signal, at different moments. At the end of each step, and
    of a validation, they agree on whether one has, and all save and stop at the same step. The first one exits with the
    code of the signal, and the others with 0: what has started them ends all at once where one of them fails.

    After a first signal, Ctrl-C raises at once, but a further SIGTERM or SIGUSR1 does not: schedulers repeat them, and
    the checkpoint is on its way. The file ``stopped.json`` of the run records the state, ``preempted`` or
    ``interrupted``, and the step; :func:`forget` deletes it. The former handlers are restored at the end of the
    context.

    Args:
        checkpoint: the path of the checkpoint file.
        folder: the run's directory; None records nothing.
    """

    def __init__(self, checkpoint: str, folder: Path | None = None) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.saved_at: int | None = None
        self._received: int | None = None
        self._training = False
        self._process = os.getpid()
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
        if os.getpid() != self._process:  # one that prepares batches, which ends with this one
            return
        code, before = CODES[signal.Signals(number)], self._received
        if before is None or number == signal.SIGINT:
            self._received = number
        if before is not None and code == PREEMPTION:
            return
        if before is not None or not self._training:
            raise Stopped(code)

    def _save(self, trainer: Trainer) -> None:
        """Save a checkpoint if a signal has been received and this step is not saved yet."""
        if self._received is not None and self.saved_at != trainer.global_step:
            trainer.save_checkpoint(self.checkpoint)
            self.saved_at = trainer.global_step
            if trainer.is_global_zero:
                self.record(trainer.global_step, CODES[signal.Signals(self._received)])

    def _agree(self) -> None:
        """Let a signal that another process has received count as one of this process."""
        self._received = largest(self._received or NONE) or None

    def _stop(self, trainer: Trainer) -> None:
        assert self._received is not None
        self._training = False
        raise Stopped(CODES[signal.Signals(self._received)] if trainer.is_global_zero else 0)

    def record(self, step: int, exit_code: object) -> None:
        """Write ``stopped.json``: the state that a run has after it was stopped, and the step.

        Args:
            step: the optimizer steps taken.
            exit_code: that of :class:`Stopped`.
        """
        if self.folder is not None:
            content = {"state": state_after(exit_code), "step": step}
            write_text(self.folder / STOPPED, json.dumps(content) + "\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = True
        if self._previous:  # Lightning has replaced ours by its own handler, which ends validation with exit code 0
            self._install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._agree()
            self._save(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self._training and not distributed():  # several processes may have different numbers of these batches
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._training and distributed():
            self._agree()
            self._save(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.saved_at == trainer.global_step and self._received is not None:  # after the step's numbers were logged
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = False
        self._agree()
        if self._received is not None:
            self._save(trainer)
            self._stop(trainer)


def forget(folder: Path) -> None:
    """Delete the record that a run was stopped, since it goes on."""
    (folder / STOPPED).unlink(missing_ok=True)
