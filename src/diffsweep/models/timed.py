r"""The base class of models that learn at noise levels t, and the losses of their training batches.

Such a model minimises the mean over a batch of :math:`w_i L_i(t_i)`: the losses of its samples at drawn times, with
importance weights :math:`w_i = 1 / p(t_i)`, p the density that times are drawn from. So the expectation is that over
uniform t in [0, 1]. Where a density is meant as a part of the loss, as in EDM, w = 1.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.diffusion import TimeSampling, sums_by_quarter
from diffsweep.layers.distributed import distributed, only_first, summed
from diffsweep.models.base import Model
from diffsweep.schedules import Schedule


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
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss_sums"] = summed(self._sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._sums = only_first(checkpoint["loss_sums"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A new interval begins. Not where the last one is logged, since a checkpoint may come between.
        if batch_idx % self.trainer.accumulate_grad_batches == 0 and self.log_is_due():
            self._sums.zero_()
        super().on_train_batch_start(batch, batch_idx)

    def training_metrics(self) -> dict[str, Tensor]:
        return self._means("train/loss", summed(self._sums))

    def log_validation(self, losses: Tensor, t: Tensor, **more: Tensor) -> None:
        """Log the mean loss of held-out samples, ``val/loss``, and that by quarter of t, ``val/loss_q1`` to ``_q4``.

        The means are over all batches of a validation, on all devices, and are logged at its end.

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
        super().on_validation_epoch_start()
        self._val_sums, self.validated = {}, []

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for name, sums in self._val_sums.items():
            quarters = self._means(f"val/{name}", summed(sums))
            quarters.pop(f"val/{name}")  # logged as a mean over samples
            self._log_validated(quarters)

    def _means(self, name: str, sums: Tensor) -> dict[str, Tensor]:
        """Return the mean over all times and that by quarter of t, from sums and counts (2, 4)."""
        means = sums[0] / sums[1].clamp(min=1)
        quarters = {f"{name}_q{quarter + 1}": mean for quarter, mean in enumerate(means) if self.by_quarter}
        return {name: sums[0].sum() / sums[1].sum(), **quarters}
