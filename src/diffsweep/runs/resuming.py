"""Resume a run: what has changed in its configuration takes effect or is refused, and the run keeps a record of it."""

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffsweep import shell
from diffsweep.callbacks import EMA, PowerAverages
from diffsweep.callbacks.checkpoints import FOLDER, LAST, read_checkpoint
from diffsweep.callbacks.ema import KEY as AVERAGE
from diffsweep.callbacks.power_averages import KEY as AVERAGES
from diffsweep.configuration.resuming import OF_THE_SAME_DATA, changes, refuse
from diffsweep.configuration.saved import load_config
from diffsweep.datasets import ImageData
from diffsweep.errors import UserError
from diffsweep.files import write_text
from diffsweep.models import Model
from diffsweep.runs.machine import processes_of

HISTORY = "changes.jsonl"
POSITION, DATA = "position", "data"  # keys of a checkpoint
OF_OPTIMIZERS = ("optimizer", "lr_scheduler", "discriminator")  # groups that a fresh optimizer follows from


class Resumption:
    """The start of a resumed run: the changes of its configuration, and its checkpoint, which must fit the model.

    Args:
        cfg: the configuration that resumes the run.

    Attributes:
        changes: what the configuration changes of the run's own.
        step: the optimizer steps that the run has taken.

    Raises:
        UserError: a change cannot take effect, the run has taken ``trainer.max_steps`` already, or it has no readable
            checkpoint.
    """

    def __init__(self, cfg: DictConfig) -> None:
        directory = Path(cfg.paths.run_dir)
        checkpoint = read_checkpoint(directory / FOLDER / LAST)
        self.cfg, self.saved = cfg, load_config(directory)
        self.path, self.step = directory / FOLDER / LAST, int(checkpoint["global_step"])
        self.changes = changes(self.saved, cfg)
        self.data: str | None = checkpoint.get(DATA)
        self._shapes = _shapes(checkpoint["state_dict"])
        self._has_averages = AVERAGES in checkpoint
        self._averaged = _shapes(checkpoint[AVERAGE]["weights"]) if AVERAGE in checkpoint else None
        self._groups = [
            [len(group["params"]) for group in state["param_groups"]] for state in checkpoint["optimizer_states"]
        ]
        refuse(self.changes, self.saved, cfg, self.step)

    def check(self, model: Model, data: ImageData, callbacks: Sequence[Callback]) -> None:
        """Raise a UserError unless the checkpoint's states fit the model, its optimizer and its weight average.

        Args:
            model: the model that is to be trained on.
            data: the dataset.
            callbacks: all callbacks of the training.

        Raises:
            UserError: with the first difference.
        """
        place = shell.shown(self.path)
        _same_shapes(self._shapes, _shapes(model.saved_weights()), place)
        averages = any(isinstance(callback, EMA) for callback in callbacks)
        if averages != (self._averaged is not None):
            has, does = ("no", "averages") if averages else ("an", "does not average")
            raise UserError(f"{place} has {has} average of the weights, and this training {does} them (callbacks.ema)")
        if self._has_averages != any(isinstance(callback, PowerAverages) for callback in callbacks):
            has, does = ("", "does not keep") if self._has_averages else ("no ", "keeps")
            raise UserError(
                f"{place} has {has}averages of several widths, and this training {does} them (callbacks.averages); "
                "they begin with a training and end with it"
            )
        if self._averaged is not None:
            trained = {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad}
            _same_shapes(self._averaged, trained, f"the average in {place}")
        made = model.configure_optimizers()
        if isinstance(made, dict):
            groups = [[len(group["params"]) for group in made["optimizer"].param_groups]]
            if groups != self._groups:
                raise UserError(f"{place} has an optimizer of {self._groups} weights, and the model has {groups}")
        moved = [change for change in self.changes if change.key in OF_THE_SAME_DATA]
        if self.step and self.data is not None and self.data != data.fingerprint:
            if moved:
                raise UserError(f"{moved[0]} cannot change when a run is resumed: the data in the new place are others")
            print(f"warning: the data are not those that {place} was trained on until step {self.step}")

    def report(self) -> None:
        """Print the step at which the run goes on and the changes that take effect from it on."""
        print(f"resumes at step {self.step}", flush=True)
        for change in self.changes:
            print(f"  from step {self.step} on, {change}", flush=True)
        if (note := batch_note(self.saved, self.cfg)) is not None:
            print(f"warning: {note}", flush=True)

    def record(self) -> None:
        """Append the changes to the run's history of changes, ``changes.jsonl``: step, key, old and new value, time."""
        if not self.changes:
            return
        path, now = Path(self.cfg.paths.run_dir) / HISTORY, time.strftime("%Y-%m-%dT%H:%M:%S%z")
        rows = [{"step": self.step, "key": c.key, "old": c.old, "new": c.new, "time": now} for c in self.changes]
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        write_text(path, before + "".join(json.dumps(row) + "\n" for row in rows))


class GoOn(Callback):
    """Save with each checkpoint what a resumed run goes on from, and let the changes of a resumed run take effect.

    A checkpoint gets ``position``, the number of training samples so far, and ``data``, the fingerprint of the dataset.
    When a run is resumed, the stream of samples goes on at that position, whatever the size of a batch is now; the
    settings of the optimizer that have changed are those of the configuration, and the learning rate is the one of its
    schedule at that step.

    Args:
        data: the dataset.
        resumption: the start of a resumed run; None for a new run.
        claim: a function that writes the run's configuration; it is called once, when a resumed run has all its states
            and its first step follows, so that a resumption that fails changes nothing.
    """

    def __init__(self, data: ImageData, resumption: Resumption | None = None, claim: Any = None) -> None:
        self.data, self.resumption, self.claim = data, resumption, claim

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[POSITION] = self.data.offset + trainer.global_step * self._samples(trainer)
        checkpoint[DATA] = self.data.fingerprint

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert self.resumption is not None
        step, now = int(checkpoint["global_step"]), self._samples(trainer)
        position = checkpoint.get(POSITION, step * samples_of_a_step(self.resumption.saved))
        self.data.offset = position - step * now
        # Lightning counts batches, and takes a step after each accumulate_grad_batches of them.
        more = step * (trainer.accumulate_grad_batches - self.resumption.saved.trainer.accumulate_grad_batches)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counted in (progress["total"], progress["current"]):
            counted.update({name: count + more for name, count in counted.items()})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumption is None:
            return
        names = {change.key.rpartition(".")[2] for change in self.resumption.changes if _of_optimizer(change.key)}
        if names or _resolved(self.resumption.saved) != _resolved(self.resumption.cfg):
            renew(trainer, pl_module, names)
        if trainer.is_global_zero:
            self.claim()
            self.resumption.record()

    def _samples(self, trainer: Trainer) -> int:
        return trainer.accumulate_grad_batches * self.data.batch_size * trainer.world_size


def renew(trainer: Trainer, model: LightningModule, names: set[str]) -> None:
    """Give the optimizer of a resumed training the named settings of a new one, and the rate of its schedule now.

    The new optimizer and schedule are made by the model and discarded. The schedule is advanced by the steps that were
    taken, so the rates are those of a run that had it from its start.

    Args:
        trainer: its first optimizer and schedule are changed; they have their states of the checkpoint.
        model: makes the new ones.
        names: settings of the optimizer, such as ``weight_decay``.
    """
    made: Any = model.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the new optimizer takes no steps
        for _ in range(trainer.global_step):
            scheduler.step()
    current = trainer.optimizers[0]
    state = current.state_dict()
    for group, fresh in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group.update({name: fresh[name] for name in (*names, "lr", "initial_lr") if name in fresh})
    current.load_state_dict(state)
    trainer.lr_scheduler_configs[0].scheduler.load_state_dict(scheduler.state_dict())


def samples_of_a_step(cfg: DictConfig) -> int:
    """Return the number of samples of an optimizer step, on all devices, that a configuration gives."""
    return int(cfg.trainer.accumulate_grad_batches * cfg.dataset.batch_size * processes_of(cfg))


def batch_note(saved: DictConfig, cfg: DictConfig) -> str | None:
    """Return a line for a run that goes on with another number of devices, and so with other samples in a step.

    It names what to type to keep their number: more accumulated batches, or another batch of each device. None if the
    number is the same, or if the devices are as many as before, so that the user has typed another batch.

    Args:
        saved: the configuration that the run has saved.
        cfg: the configuration that resumes it.
    """
    before, now, devices = samples_of_a_step(saved), samples_of_a_step(cfg), processes_of(cfg)
    if before == now or devices == processes_of(saved):
        return None
    accumulated = cfg.trainer.accumulate_grad_batches
    if before % now == 0:
        fix = f"trainer.accumulate_grad_batches={accumulated * before // now} keeps {before}"
    elif before % (devices * accumulated) == 0:
        fix = f"dataset.batch_size={before // (devices * accumulated)} keeps {before}"
    else:
        fix = f"{before} cannot be kept, since they do not divide among {devices} devices"
    return f"a step has {now} samples on {devices} device{'s' * (devices > 1)}, and had {before}; {fix}"


def _of_optimizer(key: str) -> bool:
    return key.partition(".")[0] in OF_OPTIMIZERS


def _resolved(cfg: DictConfig) -> list[Any]:
    """Return the values of all groups that an optimizer and its schedule follow from."""
    return [OmegaConf.to_container(cfg[name], resolve=True) for name in OF_OPTIMIZERS if name in cfg]


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items() if isinstance(weight, Tensor)}


def _same_shapes(saved: dict[str, tuple[int, ...]], built: dict[str, tuple[int, ...]], place: str) -> None:
    """Raise a UserError with the first weight that two models do not have alike."""
    for name, shape in built.items():
        if name not in saved:
            raise UserError(f"{place} is of another model: it has no weight {name}, which the model has")
        if saved[name] != shape:
            raise UserError(
                f"{place} is of another model: {name} has the shape {list(saved[name])}, and {list(shape)} in the model"
            )
    if extra := [name for name in saved if name not in built]:
        raise UserError(f"{place} is of another model: it has a weight {extra[0]}, which the model does not have")
