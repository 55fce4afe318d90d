"""A count of the steps of float16 whose gradients overflow, with a stop where too many follow each other."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class GradientsOverflow(FloatingPointError):  # noqa: N818 - names an outcome
    """The error that the gradients of too many steps in a row overflowed float16; the message has the step."""


class StopOnOverflow(Callback):
    """Count the steps that the gradient scaler of float16 leaves out, and stop if too many follow each other.

    With ``trainer.precision=16-mixed`` the loss is multiplied by a scale, so that small gradients do not vanish. A step
    whose scaled gradients are infinite or NaN changes no weight, and the scale is halved; a few such steps are usual at
    the beginning and after each growth of the scale. If halving does not help, the gradients themselves are too large.
    An overflow is recognised by the halved scale, on the device. On a GPU it is read when metrics are logged and before
    a validation and a checkpoint, so that other steps do not wait for the device; on the CPU after each step.

    The number of all steps left out so far is logged as ``train/overflows``. With other precisions nothing is done.

    Args:
        max_in_a_row: how many such steps may follow each other.

    Raises:
        ValueError: ``max_in_a_row`` is below 1.
    """

    def __init__(self, max_in_a_row: int = 30) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"callbacks.overflow.max_in_a_row must be at least 1, not {max_in_a_row}")
        self.max_in_a_row = max_in_a_row
        self.overflows = 0  # steps left out, as far as they were read from the device
        self._scaler: Any = None
        self._step = 0
        self._scale = self._row = self._longest = self._count = torch.zeros(())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._row = torch.zeros((), device=pl_module.device)  # steps left out since the last one that was taken
        self._longest = torch.zeros_like(self._row)
        self._count = torch.full_like(self._row, self.overflows)
        self._scale, self._step = self._read(), trainer.global_step

    def _read(self) -> Tensor:
        """Return the scale without waiting for the device."""
        one = torch.ones_like(self._row)
        scale: Tensor = one if self._scaler is None else self._scaler.scale(one)
        return scale

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._scaler is None or trainer.global_step == self._step:  # or gradients are still accumulating
            return
        self._step = trainer.global_step
        scale = self._read()
        overflow = scale < self._scale
        self._row = torch.where(overflow, self._row + 1, 0)
        self._longest = torch.maximum(self._longest, self._row)
        self._count, self._scale = self._count + overflow, scale
        logged = self._step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logged or pl_module.device.type == "cpu":
            self._check()
        if logged:
            pl_module.log("train/overflows", float(self.overflows))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check()

    def _check(self) -> None:
        """Read the counts from the device.

        Raises:
            GradientsOverflow: too many steps in a row were left out.
        """
        if self._scaler is None:
            return
        self.overflows = int(self._count)
        if (row := int(self._longest)) > self.max_in_a_row:
            raise GradientsOverflow(
                f"the gradients of {row} steps in a row, up to about step {self._step}, overflowed float16, although "
                f"the loss scale went down to {float(self._scale):g}; these steps changed no weight; "
                "trainer.precision=bf16-mixed has the range of float32, or try a lower optimizer.lr; "
                "callbacks.overflow.max_in_a_row=N lets so many pass"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"overflows": self.overflows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.overflows = state_dict["overflows"]
