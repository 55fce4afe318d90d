r"""The base classes of models: how optimizers, random numbers and logging work in training, whatever the loss.

A model that learns at noise levels t minimises the mean over a batch of :math:`w_i L_i(t_i)`: the losses of its samples
at drawn times, with importance weights :math:`w_i = 1 / p(t_i)`, p the density that times are drawn from. So the
expectation is that over uniform t in [0, 1]. Where a density is meant as a part of the loss, as in EDM, w = 1.
"""

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
    """A LightningModule whose random numbers in training follow from the seed, the step and the samples alone.

    So a run that is resumed draws what the uninterrupted run would have drawn. Subclasses define the training step and
    :meth:`training_metrics`.

    Args:
        optimizer: makes the optimizer of a list of parameters.
        lr_scheduler: makes the learning-rate scheduler of an optimizer; it advances after every optimizer step.
        seed: the seed of all random numbers of training.
        noise: the covariance over the frames of a clip of the noise that is added in training.

    Attributes:
        batch_noise: maps the positions of samples in the endless training stream, int64 (B,), to their noise.
        requires_pixels: whether training needs the images themselves, even if diffusion is in latents, which could be
            stored in place of the images.
        on_gradients: called with the optimizer and the norms of the gradients, one for each group of
            ``trained_together``, after each backward pass that a step follows and before that step; None for nothing.
            It is not called with the scaled gradients of float16.
        next_command: the command that a user would run next with a trained model, without ``=DIRECTORY`` of its run at
            the end, such as ``sample.py run``.
    """

    requires_pixels = False
    on_gradients: Callable[[torch.optim.Optimizer, Tensor], None] | None = None
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
        """Return the parameters that the optimizer changes: those that require a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def trained_together(self) -> list[list[torch.nn.Parameter]]:
        """The trained parameters as a list of groups; the gradients of each group are clipped by their own norm.

        By default it is one group; a model whose parts have separate optimizers has one for each.
        """
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
        """Clip the gradients by value, or by the norm of each group of ``trained_together``, as the trainer is set.

        It replaces Lightning's clipping, which refuses fused optimizers under any mixed precision. Only the scaled
        gradients of float16 cannot be clipped with them, since fused optimizers unscale gradients themselves; with
        float16 Lightning's clipping is used.

        Args:
            optimizer: not used, but for float16.
            gradient_clip_val: the largest norm or absolute value; None or 0: nothing is clipped.
            gradient_clip_algorithm: ``value``, or ``norm``, the default.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            by_value = gradient_clip_algorithm == "value"
            if by_value:
                self._report_gradients(optimizer)
                for part in self.trained_together:
                    torch.nn.utils.clip_grad_value_(part, gradient_clip_val)
            else:
                clip = torch.nn.utils.clip_grad_norm_
                norms = [clip(part, gradient_clip_val) for part in self.trained_together]
                self._report_gradients(optimizer, norms)
        else:
            self._report_gradients(optimizer)

    def _report_gradients(self, optimizer: torch.optim.Optimizer, norms: list[Tensor] | None = None) -> None:
        """Call ``on_gradients``, if it is set, with the norms of the gradients; they are computed if none are given."""
        if self.on_gradients is None:
            return
        if norms is None:
            gradients = [[weight.grad for weight in part if weight.grad is not None] for part in self.trained_together]
            norms = [torch.nn.utils.get_total_norm(part) for part in gradients]
        self.on_gradients(optimizer, torch.stack(norms))

    def log_is_due(self) -> bool:
        """Return whether training metrics are logged at this optimizer step, a multiple of ``log_every_n_steps``."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.global_step % every == 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seed_dropout(self.global_step, batch_idx % self.trainer.accumulate_grad_batches, self.global_rank)

    def seed_dropout(self, step: int, accumulated: int = 0, rank: int = 0) -> None:
        """Seed torch's generators for a training batch, which dropout inside networks draws from.

        So a resumed run draws what the uninterrupted one would have drawn.

        Args:
            step: the optimizer steps that were taken before.
            accumulated: the batches of the step before this one.
            rank: the number of the process.
        """
        keys = (self.seed, step, accumulated, rank)
        seed = functools.reduce(lambda mixed, key: (mixed * 1_000_003 + key) % 2**63, keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a stack trace for absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    @abstractmethod
    def training_metrics(self) -> dict[str, Tensor]:
        """Return the numbers to log of training, scalars by name, such as ``train/loss``; subclasses define them."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if stepped and self.log_is_due():
            self.log_dict(self.training_metrics(), sync_dist=True)
            self.log("step", float(self.global_step))  # the steps taken; Lightning's count is one behind here

    def log_mean(self, name: str, values: Tensor) -> None:
        """Log the mean over a whole validation of one number for each held-out sample.

        It is called with each batch.

        Args:
            name: the name in the log.
            values: the numbers of a batch, (B,).
        """
        self.log(name, values.mean(), batch_size=len(values), on_epoch=True, sync_dist=True)

    @property
    def float_type(self) -> torch.dtype:
        """The floating-point type of the model's weights, in which samples are drawn too."""
        return next(self.parameters()).dtype


class SelfMeasured(ABC):
    """A model that is not measured by samples that it draws, but by its own :meth:`measure` on held-out data."""

    @abstractmethod
    def measure(self, data: ImageData, folder: Path, metrics: GenerationMetrics | None = None) -> dict[str, float]:
        """Return the metrics of the trained model on held-out data, by name.

        Subclasses define the metrics, and which files are written.

        Args:
            data: the dataset, whose held-out samples are used.
            folder: where pictures and tables are written.
            metrics: the metrics of images, for models that make images; None for none.
        """


class Losses(NamedTuple):
    """The losses of a training batch, with the times at which they were computed.

    Attributes:
        losses: the loss of each sample, (B,), without the importance weight.
        t: the time of each sample, in [0, 1], (B,).
        weight: the importance weight of each time, (B,), which the loss is multiplied by; 1 if times are uniform, or if
            their density is meant as a part of the loss.
    """

    losses: Tensor
    t: Tensor
    weight: Tensor


class TimedModel(Model):
    """A model that learns at drawn times t: losses are also logged as means over each quarter of t in [0, 1].

    A subclass defines :meth:`losses`, L_i of the samples of a batch at times t_i with importance weights w_i. The
    training loss is the mean over the batch of w_i L_i. Logged are ``train/loss``, the plain mean of L_i since the last
    log, and ``train/loss_q1`` to ``train/loss_q4``, its means over 0 < t <= 1/4 to 3/4 < t <= 1 (t = 0 counts to the
    first; a quarter without samples is logged as 0); in validation ``val/...`` alike.

    Args: those of :class:`Model`.

    Attributes:
        time_sampling: how the times of a batch are drawn.
        by_quarter: whether means by quarter of t are logged; False for a model whose times are all 0.
        validated: the times and losses, a pair of (B,), of each batch of the latest validation in this process.
    """

    time_sampling: TimeSampling
    by_quarter = True

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        # Sums and counts by quarter of t: of training losses since the last log, and of the numbers of this validation.
        self._sums = torch.zeros(2, 4)
        self._val_sums: dict[str, Tensor] = {}
        self.validated: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """Return the losses of a training batch, their times and the importance weights of the times.

        Subclasses define the losses.

        Args:
            batch: the samples: ``x`` or stored latents, annotations such as ``label``, and ``position``, the place of
                each in the training stream, which keys its random numbers.
        """

    def update_time_sampling(self, schedule: Schedule, t: Tensor, losses: Tensor) -> None:
        """Pass losses to the model's time sampling if it is one that adapts to them; otherwise do nothing.

        With several processes (ranks) the losses and times of all are gathered and passed.

        Args:
            schedule: the noise schedule.
            t: the time of each loss, (B,).
            losses: the losses of this process's batch, without importance weights, (B,).
        """
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
        return self._means("train/loss", self._sums)

    def log_validation(self, losses: Tensor, t: Tensor, **more: Tensor) -> None:
        """Log the mean loss of held-out samples, ``val/loss``, and that by quarter of t, ``val/loss_q1`` to ``_q4``.

        The means are over all batches of a validation; those by quarter are logged at its end.

        Args:
            losses: the losses of a batch, (B,).
            t: the time of each loss, (B,).
            more: further numbers of each sample by name, (B,), which are logged alike under ``val/`` and their names.
        """
        self.validated.append((t.detach(), losses.detach()))
        for name, values in {"loss": losses, **more}.items():
            self.log_mean(f"val/{name}", values)
            sums = torch.stack(sums_by_quarter(values, t))
            self._val_sums[name] = self._val_sums[name] + sums if name in self._val_sums else sums

    def on_validation_epoch_start(self) -> None:
        self._val_sums, self.validated = {}, []

    def on_validation_epoch_end(self) -> None:
        for name, sums in self._val_sums.items():
            quarters = self._means(f"val/{name}", sums)
            quarters.pop(f"val/{name}")  # logged as a mean over samples
            self.log_dict(quarters, sync_dist=True)
        self.log("step", float(self.global_step))

    def _means(self, name: str, sums: Tensor) -> dict[str, Tensor]:
        """Return the mean over all times and that by quarter of t, from sums and counts (2, 4)."""
        means = sums[0] / sums[1].clamp(min=1)
        quarters = {f"{name}_q{quarter + 1}": mean for quarter, mean in enumerate(means) if self.by_quarter}
        return {name: sums[0].sum() / sums[1].sum(), **quarters}
