"""What models share: the life of a training step, and losses told by noise level."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor

from diffsweep.capabilities import Part
from diffsweep.datasets import ImageData
from diffsweep.diffusion import INDEPENDENT, BatchNoise, ClipNoise, TimeSampling, sums_by_quarter
from diffsweep.layers import distributed
from diffsweep.metrics import GenerationMetrics
from diffsweep.schedules import Schedule


class Model(LightningModule, Part):
    """A LightningModule whose step is counted: what it draws follows from the seed and the step alone.

    Args:
        optimizer: parameters to an optimizer.
        lr_scheduler: an optimizer to its learning-rate scheduler, stepped every step.
        seed: keys all randomness.
        noise: what frames of clips share of the noise of training.

    Attributes:
        batch_noise: positions in the training stream to the noise of their samples.
        needs_pixels: whether it is trained on the pixels themselves, whatever its space.
        next_command: what a user would do with a trained one, up to the directory of its run.
    """

    requires_pixels = False
    next_command = "evaluate.py run"

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr_scheduler: Callable[[torch.optim.Optimizer], Any],
        seed: int = 0,
        noise: ClipNoise = INDEPENDENT,
    ) -> None:
        super().__init__()
        self.make_optimizer, self.make_lr_scheduler, self.seed = optimizer, lr_scheduler, seed
        self.batch_noise = BatchNoise(seed, noise)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def trained_together(self) -> list[list[torch.nn.Parameter]]:
        """The same in parts, whose gradients are clipped each by itself."""
        return [self.trained_parameters()]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trained_parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_lr_scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm or by value. Lightning refuses fused optimizers under any mixed precision, but only float16's
        scaled gradients, which they unscale themselves, cannot be clipped."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            by_value = gradient_clip_algorithm == "value"
            clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
            for part in self.trained_together:
                clip(part, gradient_clip_val)

    def log_is_due(self) -> bool:
        """Whether this is a step that is logged."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.global_step % every == 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # For dropout inside networks: a resumed step draws what the uninterrupted one would have drawn.
        accumulated = batch_idx % self.trainer.accumulate_grad_batches
        keys = (self.seed, self.global_step, accumulated, self.global_rank)
        seed = functools.reduce(lambda mixed, key: (mixed * 1_000_003 + key) % 2**63, keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a stack trace for absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    @abstractmethod
    def training_metrics(self) -> dict[str, Tensor]:
        """What is logged of training, by name."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if stepped and self.log_is_due():
            self.log_dict(self.training_metrics(), sync_dist=True)
            self.log("step", float(self.global_step))  # the steps taken; Lightning's own count is one behind here

    def log_mean(self, name: str, values: Tensor) -> None:
        """The mean of a number of each held-out sample, over a validation."""
        self.log(name, values.mean(), batch_size=len(values), on_epoch=True, sync_dist=True)

    @property
    def float_type(self) -> torch.dtype:
        """Of the weights, and of what is sampled."""
        return next(self.parameters()).dtype


class SelfMeasured(ABC):
    """What a model is that draws no samples to be measured."""

    @abstractmethod
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """The numbers of the trained model, with progress; pictures go into the folder. ``metrics`` has features of images."""


class Losses(NamedTuple):
    """The losses of a training batch, and the times at which they were taken.

    Attributes:
        losses: the loss of each sample, (B,), unweighted.
        t: the time of each sample, (B,).
        weight: the importance weight of each time, (B,), by which the mean over the batch is that over uniform times.
    """

    losses: Tensor
    t: Tensor
    weight: Tensor


class TimedModel(Model):
    """A model that learns at drawn times: its losses are logged by quarter of t too.

    Attributes:
        time_sampling: which times a batch looks at.
        by_quarter: whether its times differ, so that there is something to tell by quarter.
    """

    time_sampling: TimeSampling
    by_quarter = True

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        # Sums and counts by quarter of t: of the losses of training since the last log, and of the numbers of this validation.
        self._sums = torch.zeros(2, 4)
        self._val_sums: dict[str, Tensor] = {}

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """Return the losses of a training batch, their times and the weights of these."""

    def update_time_sampling(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        """The time sampling hears of the losses (B,) at times ``t`` (B,), of all ranks, where it learns from them."""
        if "bound" in self.time_sampling.requires:
            measured = [t, losses.detach()]
            if distributed():
                measured = [self.all_gather(part).flatten() for part in measured]  # type: ignore[union-attr]
            self.time_sampling.update(schedule, *measured)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        losses, t, weight = self.losses(batch)
        self._sums += torch.stack(sums_by_quarter(losses.detach(), t))
        return (weight * losses).mean()

    def on_train_start(self) -> None:
        self._sums = self._sums.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss_sums"] = self._sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._sums = checkpoint["loss_sums"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A new interval begins. Not where the last one is logged, since a checkpoint may come between.
        if batch_idx % self.trainer.accumulate_grad_batches == 0 and self.log_is_due():
            self._sums.zero_()
        super().on_train_batch_start(batch, batch_idx)

    def training_metrics(self) -> dict[str, Tensor]:
        return self._told("train/loss", self._sums)

    def validated(self, losses: Tensor, t: Tensor, **more: Tensor) -> None:
        """Losses of held-out samples, their times, and other numbers by name, each (B,): ``val/loss`` ..., and by quarter."""
        for name, values in {"loss": losses, **more}.items():
            self.log_mean(f"val/{name}", values)
            sums = torch.stack(sums_by_quarter(values, t))
            self._val_sums[name] = self._val_sums[name] + sums if name in self._val_sums else sums

    def on_validation_epoch_start(self) -> None:
        self._val_sums = {}

    def on_validation_epoch_end(self) -> None:
        for name, sums in self._val_sums.items():
            quarters = self._told(f"val/{name}", sums)
            quarters.pop(f"val/{name}")  # logged as a mean over samples
            self.log_dict(quarters, sync_dist=True)
        self.log("step", float(self.global_step))

    def _told(self, name: str, sums: Tensor) -> dict[str, Tensor]:
        """Means of all and by quarter of t, from sums and counts (2, 4)."""
        means = sums[0] / sums[1].clamp(min=1)
        quarters = {f"{name}_q{quarter + 1}": mean for quarter, mean in enumerate(means) if self.by_quarter}
        return {name: sums[0].sum() / sums[1].sum(), **quarters}
