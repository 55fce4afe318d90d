"""A guard that keeps losses and gradients that are NaN or infinite away from the optimizer, and stops the run."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from diffsweep.layers.sharding import is_sharded
from diffsweep.tensor_files import write_tensors

FAILED = "nonfinite.ckpt"  # in the run's directory: the weights before the step that failed, and its batch
ADVICE = (
    "try a lower optimizer.lr, a smaller trainer.gradient_clip_val or a longer lr_scheduler.warmup_steps; "
    "callbacks.finite.max_skipped=N leaves out so many such steps"
)


class LossIsNaN(FloatingPointError):  # noqa: N818 - names an outcome
    """The error that a training loss or gradient is NaN or infinite; the message has the step and its batch."""


class StopOnNaN(Callback):
    """Stop training by the error :class:`LossIsNaN` if a loss or a gradient is NaN or infinite, before the update.

    The norms of the gradients, which clipping computes anyhow, and the loss are tested on the device after the backward
    pass. A step that fails the test changes no weight and no state of the optimizer. On the CPU, and with optimizers
    that cannot skip a step by themselves, the test is read at once and the step raises. Fused optimizers on a GPU skip
    the step on the device, and all that follow it; the test is read when metrics are logged, before a validation and
    before a checkpoint is saved, so that other steps do not wait for the device.

    The weights before the step and the positions of its batch are written into ``nonfinite.ckpt`` of ``folder``,
    unless the weights are sharded over devices.
    A norm that overflows its type counts as infinite. Gradients of float16 overflow in the course of things; their
    scaler skips such steps, which :class:`~diffsweep.callbacks.overflow.StopOnOverflow` counts, and losses alone are
    tested here, when metrics are logged.

    Args:
        folder: the run's directory; None writes nothing.
        max_skipped: how many such steps are left out and counted, before the next one stops the run; above 0 each step
            waits for the device.

    Raises:
        ValueError: ``max_skipped`` is below 0.
    """

    def __init__(self, folder: str | None = None, max_skipped: int = 0) -> None:
        if max_skipped < 0:
            raise ValueError(f"callbacks.finite.max_skipped must be at least 0, not {max_skipped}")
        self.folder, self.max_skipped = folder, max_skipped
        self.skipped = 0
        self._recent: deque[tuple[int, int, Any]] = deque(maxlen=1024)  # step, batch of the step, positions
        self._loss = self._bad = torch.zeros(())
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loss = torch.zeros((), device=pl_module.device)
        self._bad = torch.zeros((), device=pl_module.device)  # the first step that failed, from 1; 0: none
        self._step = trainer.global_step
        test: Any = lambda optimizer, norms: self._test(trainer, pl_module, optimizer, norms)  # noqa: E731
        pl_module.on_gradients = test

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        positions = batch.get("position") if isinstance(batch, dict) else None
        self._recent.append((trainer.global_step + 1, batch_idx % trainer.accumulate_grad_batches, positions))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = self._loss + loss.detach()

    def _test(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, norms: Tensor) -> None:
        """Let the optimizer leave out its next step if the loss or a norm is not finite."""
        finite = torch.isfinite(norms).all() & torch.isfinite(self._loss)
        if norms.device.type == "cuda" and self.max_skipped == 0 and (parts := _skipping(optimizer)):
            step = torch.full_like(self._bad, trainer.global_step + 1)
            self._bad = torch.where((self._bad == 0) & ~finite, step, self._bad)
            for part in parts:
                part.found_inf = (self._bad > 0).float()  # type: ignore[attr-defined]
        elif not finite:
            self._skip(trainer, module)

    def _skip(self, trainer: Trainer, module: LightningModule) -> None:
        """Leave out the next step, or raise if too many were left out."""
        self.skipped += 1
        if self.skipped > self.max_skipped:
            self._raise(trainer, module, trainer.global_step + 1)
        step = trainer.global_step + 1
        print(
            f"\nstep {step} is left out, batch of {self._positions(step)}: its loss or a gradient is NaN or infinite "
            f"({self.skipped} of at most {self.max_skipped} such steps)",
            flush=True,
        )
        self._loss.zero_()
        for weight in module.parameters():
            weight.grad = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        if (step := int(self._bad)) or not torch.isfinite(self._loss):
            self._raise(trainer, module, step or trainer.global_step)
        self._loss = torch.zeros_like(self._loss)
        self._step = trainer.global_step

    def _raise(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        batches = [(batch, positions) for at, batch, positions in self._recent if at == step]
        kept = ""
        sharded = any(map(is_sharded, module.parameters()))  # this process alone has not all of the weights
        if self.folder is not None and trainer.is_global_zero and not sharded:
            held = [positions.cpu() for _, positions in batches if positions is not None]
            content = {"step": step, "state_dict": module.state_dict(), "positions": held}
            path = Path(self.folder) / FAILED
            write_tensors(path, content, step - 1)
            kept = f"; the weights before it are in {path}"
        raise LossIsNaN(
            f"the loss or a gradient became NaN or infinite in step {step}, batch of {self._positions(step)} "
            f"(loss {float(self._loss):g}, summed since step {self._step}); it changed no weight{kept}; {ADVICE}"
        )

    def _positions(self, step: int) -> str:
        """Return the positions of the samples of a step in the training stream, in words."""
        found = [positions for at, _, positions in self._recent if at == step and positions is not None]
        if not found:
            return "unknown positions"
        every = torch.cat([positions.cpu() for positions in found])
        return f"positions {int(every.min())} to {int(every.max())}"

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def _skipping(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that step together, if each is fused, so that it skips a step by a flag on the device."""
    parts = list(getattr(optimizer, "optimizers", (optimizer,)))
    fused = all(group.get("fused") for part in parts for group in part.param_groups)
    return parts if fused else []
