"""Callbacks that measure a training from within its loop: the times of hooks, and the memory and time of steps."""

import math
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from diffsweep.benchmarks.base import synchronize
from diffsweep.callbacks import EMA
from diffsweep.runs.planning.memory import KeptBytes, Peak, SavedForBackward, capacity_of, known_bytes

WARM_UP = 4  # steps that are not timed: with a quarter of a batch, a half, and twice with a whole one
LEAST, MOST = 3, 200  # timed steps


class TooLarge(Exception):  # noqa: N818 - names an outcome
    """The outcome that a device has too little memory for the batch of a configuration."""


class Marks(Callback):
    """A callback that writes down the time of each hook that a rehearsal times; one is first of all and one is last.

    Args:
        times: where the times are kept, by the name of the hook and the place of the callback.
        place: ``first`` or ``last``.
    """

    def __init__(self, times: dict[tuple[str, str], list[float]], place: str) -> None:
        self.times, self.place = times, place

    def _mark(self, hook: str) -> None:
        synchronize()
        self.times.setdefault((hook, self.place), []).append(time.perf_counter())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("train_start")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("validation_start")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._mark("validation_batch_end")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("validation_epoch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("validation_end")


class Steps(Callback):
    """A callback that measures the memory of the first steps, times those after them, and then stops the training.

    Args:
        peak: the memory of the device.
        process: the bytes that the process takes without a model.
        processes: which share the memory of the machine; 1 on a GPU.
        seconds: how long steps are timed, if these are at least LEAST and at most MOST.

    Attributes:
        points: for each measured batch its size, the activations and the most memory of its step, in bytes.
        step: the mean seconds of a timed step.
        known: the bytes that are kept between steps.
        loop: the seconds of all steps.

    Raises:
        TooLarge: in the training, before a batch that the device cannot hold.
    """

    def __init__(self, peak: Peak, process: int, seconds: float, processes: int = 1) -> None:
        self.peak, self.process, self.seconds, self.processes = peak, process, seconds, processes
        self.points: list[tuple[int, int, int]] = []
        self.step, self.loop = math.nan, 0.0
        self.known = KeptBytes(0, 0, 0, 0)
        self.capacity: int | None = None
        self._saved: SavedForBackward | None = None  # while a forward pass is counted
        self._counted: int | None = None  # bytes of the forward pass of this batch
        self._begin = self._window = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin = time.perf_counter()
        capacity = capacity_of(pl_module.device, self.peak.now())
        self.capacity = None if capacity is None else capacity // self.processes

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step, of_step = divmod(batch_idx, trainer.accumulate_grad_batches)
        if step == WARM_UP and of_step == 0:
            synchronize()
            self._window = time.perf_counter()
        count = len(batch["position"])
        rows = max(1, count >> (2 - step)) if step < 2 else count
        if rows < count:
            for name, values in batch.items():
                batch[name] = values[:rows]
        if step == 2 and of_step == 0:
            self._refuse_large(count)
        if step in (1, 2) and of_step == trainer.accumulate_grad_batches - 1:  # the optimizer has its state by then
            self.peak.restart()
            self._saved = SavedForBackward([*pl_module.parameters(), *pl_module.buffers()]).__enter__()

    def _refuse_large(self, count: int) -> None:
        """Raise TooLarge if the line through nothing and the half batch leads above the memory at a whole batch."""
        rows, activations, _ = self.points[-1]
        least = self.process + sum(self.known) + activations / rows * count
        if self.capacity is not None and least > self.capacity:
            raise TooLarge

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._end_count()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end_count()  # else later forward passes would be counted too

    def _end_count(self) -> None:
        if self._saved is not None:
            self._saved.__exit__(None, None, None)
            self._counted, self._saved = self._saved.bytes, None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._counted is not None:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            averages = [callback.average for callback in callbacks if isinstance(callback, EMA)]
            self.known = known_bytes(pl_module, trainer.optimizers, averages)
            self.points.append((len(batch["position"]), self._counted, self.peak.most()))
            self._counted = None
        timed = trainer.global_step - WARM_UP
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and timed >= LEAST:
            elapsed = time.perf_counter() - self._window
            if elapsed >= self.seconds or timed >= MOST:
                synchronize()
                self.step = (time.perf_counter() - self._window) / timed
                self.loop = time.perf_counter() - self._begin
                trainer.should_stop = True
