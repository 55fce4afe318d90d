"""Begin the rounds of a model that is trained in several, each from the averaged weights of the one before."""

from contextlib import nullcontext
from typing import Any

from lightning import Callback, LightningModule, Trainer

from diffsweep.callbacks.checkpoints import KeepCheckpoints
from diffsweep.callbacks.ema import EMA
from diffsweep.models import Model


class BeginRounds(Callback):
    """Begin a round of a model before the first training batch that belongs to it (:meth:`Model.round_at`).

    The model is given its averaged weights, with which it goes on, and the optimizer forgets its state. The average
    begins anew. Validation losses of another round do not compare, so ``best.ckpt`` is that of the present one.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Model)
        number = pl_module.round_at(trainer.global_step)
        if number == pl_module.round:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averages = [callback for callback in callbacks if isinstance(callback, EMA)]
        with averages[0].applied(pl_module) if averages else nullcontext():
            pl_module.begin_round(number)
        for average in averages:
            average.restart()
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        for callback in callbacks:
            if isinstance(callback, KeepCheckpoints):
                callback.best = float("inf")
