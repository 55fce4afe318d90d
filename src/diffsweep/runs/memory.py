"""Training on a device that is short of memory: the batch is halved, and twice as many batches make a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from diffsweep import shell
from diffsweep.callbacks.checkpoints import FOLDER, LAST
from diffsweep.errors import UserError


class ShortOfMemory(UserError):  # noqa: N818 - names an outcome
    """The error that the device has too little memory; the message has the step and what to type instead.

    Attributes:
        step: the training step, from 1, if a smaller batch may be of help; None otherwise.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class MemoryOfSteps(Callback):
    """Turn the error that a training step has no memory into a one-line error, which names the step.

    Args:
        cfg: the run's configuration.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self._step: int | None = None  # the step at hand; None outside of one, as in a validation

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._step = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Convert errors of memory within a context.

        Raises:
            ShortOfMemory: the device has too little memory.
        """
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise ShortOfMemory(self._message(), self._step) from error

    def _message(self) -> str:
        cfg = self.cfg
        if self._step is None:
            first = "metrics.batch_size=N, " if "batch_size" in (cfg.get("metrics") or {}) else ""
            return (
                f"out of memory on the device outside of a training step; try {first}a smaller "
                f"callbacks.sample_grid.num_samples, {_less(cfg)}"
            )
        batch = cfg.dataset.batch_size
        because = why_not_halved(cfg)
        smaller = f"{divide(cfg.copy())}, " if batch > 1 else ""
        run = Path(cfg.paths.run_dir)
        resumed = f"resume={shell.shown(run)} with " if (run / FOLDER / LAST).is_file() else ""
        return (
            f"out of memory on the device in training step {self._step} with dataset.batch_size={batch}"
            f"{f', which is not halved since {because}' if because else ''}; try {resumed}{smaller}{_less(cfg)}"
        )


def _less(cfg: DictConfig) -> str:
    """Return what else takes less memory, as it is typed."""
    again = "backbone.checkpointing=true, " if "checkpointing" in (cfg.get("backbone") or {}) else ""
    return f"{again}trainer.precision=bf16-mixed or a smaller network"


def why_not_halved(cfg: DictConfig) -> str | None:
    """Return why a training may not go on by itself with batches of half the size; None if it may.

    Args:
        cfg: the run's configuration.
    """
    if not cfg.get("halve_batch"):
        return "halve_batch=false"
    if (batch := cfg.dataset.batch_size) % 2:
        return f"{batch} is odd"
    return why_not_divided(cfg)


def why_not_divided(cfg: DictConfig) -> str | None:
    """Return why smaller batches, several in a step, may not take the place of those of a training.

    None if they may: then each step has the same samples in the same order, and the mean of their losses.

    A run on several devices keeps its batch: within the backward pass the others already wait for a sum of gradients
    that the process without memory can no longer join, and only the program that started them all (Lightning, torchrun,
    Slurm) could start them anew. So the run ends with what to type.

    Args:
        cfg: the run's configuration.
    """
    if cfg.trainer.devices != 1 or cfg.trainer.get("num_nodes", 1) != 1:
        return "the run has several devices, and the others wait for the gradients of this one"
    if cfg.dataset.get("buckets") is not None:
        return "dataset.buckets gives all images of a batch one size, so other batches have other images"
    if cfg.choices.get("discriminator") not in (None, "none"):
        return "the weight of an adversarial loss depends on the whole batch"
    return None


def divide(cfg: DictConfig) -> str:
    """Divide the batch of a configuration by its least factor, 2 of an even one, and return the change as it is typed.

    As many times more batches are accumulated in a step, which keeps its samples.

    Args:
        cfg: the run's configuration, with a batch above 1.
    """
    batch = cfg.dataset.batch_size
    factor = next(number for number in range(2, batch + 1) if batch % number == 0)
    cfg.dataset.batch_size //= factor
    cfg.trainer.accumulate_grad_batches *= factor
    accumulated = cfg.trainer.accumulate_grad_batches
    return f"dataset.batch_size={cfg.dataset.batch_size} trainer.accumulate_grad_batches={accumulated}"
