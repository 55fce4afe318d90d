"""Exponential moving average of the weights: theta' <- d_n theta' + (1 - d_n) theta after optimizer step n.

theta are the weights that train, theta' their average, and d_n < 1 is the decay.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from diffsweep.layers.sharding import is_sharded, own_part, own_parts, sharded_as
from diffsweep.phases import AVERAGING, phase
from diffsweep.precision import wide_type

KEY = "ema"


class EMA(Callback):
    r"""Average the weights after each optimizer step: :math:`\theta' \leftarrow d_n \theta' + (1 - d_n) \theta`.

    :math:`\theta` are the weights that train, :math:`\theta'` is their average, and :math:`d_n = \min(d, \frac{1 +
    n}{10 + n})` warms up with the number n of averaged steps, so that the random initial weights are soon forgotten.
    Before ``start`` the average equals the current weights, so that validation and samples never use stale ones.
    Validation runs with the average; a checkpoint has both. The average is of float32 at least, also of weights of 16
    bits, which would round an update by a share of 0.001 to none; the weights are set to its rounded values where it is
    used.

    With ``every`` = k above 1 the average is updated after the steps k, 2k, ... alone, by :math:`\theta' \leftarrow D
    \theta' + (1 - D) \theta` with the product D of the decays of the last k steps. So the weights of k steps ago keep
    the share that they would have; those of the last step stand for the k - 1 before, and between two updates the
    average is that of the last one.

    (Lightning's ``WeightAveraging`` has one decay from the first step on, keeps the initial weights until a delayed
    start, and reads a counter back from the device each step.)

    Args:
        decay: d, in [0, 1).
        start: optimizer steps before the average begins.
        warmup: whether the decay warms up; otherwise d_n = d.
        every: k, the optimizer steps from one update of the average to the next.

    Raises:
        ValueError: ``decay`` is outside [0, 1), or ``every`` is below 1.
    """

    def __init__(self, decay: float = 0.999, start: int = 0, warmup: bool = True, every: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay must be in [0, 1), not {decay}")
        if every < 1:
            raise ValueError(f"callbacks.ema.every must be at least 1 optimizer step, not {every}")
        self.decay, self.start, self.warmup, self.every = decay, start, warmup, every
        self.step = self.updated = 0  # optimizer steps so far, and at the last update
        self.average: dict[str, Tensor] = {}
        self._tracked: list[Tensor] = []
        self._sharded: dict[str, Tensor] = {}  # the weights, if they are sharded: a module may have gathered them
        self._training: dict[str, Tensor] = {}  # the weights that train, while the average is in the module

    def decay_at(self, step: int) -> float:
        """Return the decay d_n of the update of the average after optimizer step ``step`` (1, 2, ...).

        With n = step - start it is 0 for n <= 0, where the average equals the weights; then min(decay, (1 + n) / (10 +
        n)), or ``decay`` without warmup.
        """
        n = step - self.start
        if n <= 0:
            return 0.0
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        current = trainable(pl_module)
        self._tracked = own_parts(current.values())  # the modules are not searched again in each step
        self._sharded = current if any(map(is_sharded, current.values())) else {}
        saved = {name: sharded_as(average, current[name]) for name, average in self.average.items()}
        self.average = wide_copies(current, saved or current)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients are still accumulating
            return
        self.step = trainer.global_step
        if self.step % self.every:
            return
        kept = math.prod(self.decay_at(step) for step in range(self.updated + 1, self.step + 1))
        with torch.no_grad(), phase(AVERAGING):
            move(own_parts(self.average.values()), self._tracked, 1 - kept)
        self.updated = self.step

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Put the averaged weights into the module within a context, and the weights that train back at its end.

        Nothing changes if the average is in the module already, as in validation, or if training has not begun.

        Args:
            pl_module: the module that is trained with this callback.
        """
        if self._training or not self.average:
            yield
            return
        self._swap(pl_module)
        try:
            yield
        finally:
            self._swap(pl_module)

    @torch.no_grad()
    def restart(self) -> None:
        """Go on from the average: the weights that train become it, and the average begins anew."""
        torch._foreach_copy_(self._tracked, own_parts(self.average.values()))
        self.start = self.updated = self.step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._training:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._training:  # during validation; a checkpoint that is saved now must have the weights that train
            self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        """Put the average into the module, or the weights that train back."""
        weights, put = self._weights(pl_module), self._training or self.average
        self._training = {} if self._training else {name: _kept(weight) for name, weight in weights.items()}
        for name, weight in weights.items():
            if is_sharded(weight):
                own_part(weight).copy_(own_part(put[name]))
            else:
                weight.data = put[name].to(weight.dtype)

    def _weights(self, pl_module: LightningModule) -> dict[str, Tensor]:
        return self._sharded or trainable(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._training:
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._training}
        counts = {"step": self.step, "start": self.start, "updated": self.updated}
        checkpoint[KEY] = {**counts, "weights": self.average}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[KEY]
        self.step, self.start = saved["step"], saved.get("start", self.start)
        self.updated = saved.get("updated", self.step)
        self.average = {name: weight.clone() for name, weight in saved["weights"].items()}


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint with the averaged weights in place of those that train.

    Weights without an average, such as all of a run without :class:`EMA`, are those of the checkpoint.

    Args:
        checkpoint: the content of the file, see :func:`~diffsweep.callbacks.checkpoints.read_checkpoint`.
    """
    return {**checkpoint["state_dict"], **checkpoint.get(KEY, {"weights": {}})["weights"]}


def _kept(weight: Tensor) -> Tensor:
    """Return the values of a weight that others replace: a copy of a sharded one, which is written in place."""
    return weight.detach().clone() if is_sharded(weight) else weight.data


def trainable(pl_module: LightningModule) -> dict[str, Tensor]:
    """Return the weights of a module that train, by name; these are averaged."""
    return {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}


def wide_copies(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of values of weights, by their names, on their devices and in float32 at least.

    Args:
        weights: the weights.
        values: an average of each, or the weights themselves.
    """
    return {
        name: values[name].detach().to(weight.device, wide_type(weight.dtype), copy=True)
        for name, weight in weights.items()
    }


def move(means: Sequence[Tensor], weights: Sequence[Tensor], share: float) -> None:
    """Move averages towards the weights by a share of the difference, in place.

    Args:
        means: the averages, in the order of the weights; from :func:`wide_copies`.
        weights: the weights, which may be of a narrower type.
        share: in [0, 1].
    """
    if any(mean.dtype != weight.dtype for mean, weight in zip(means, weights, strict=True)):
        weights = [weight.to(mean.dtype) for weight, mean in zip(weights, means, strict=True)]
    torch._foreach_lerp_(list(means), list(weights), share)
