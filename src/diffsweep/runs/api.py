"""The functions of ``import diffsweep``: ``compose``, ``train``, ``plan``, ``load``, with the command line's checks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffsweep import shell
from diffsweep.conditioning import Conditioning
from diffsweep.configuration import compose as composing
from diffsweep.configuration.build import build, build_data_if_found, execute, products
from diffsweep.configuration.loading import load_model
from diffsweep.configuration.preflight import preflight
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel, Model
from diffsweep.runs import training
from diffsweep.runs.machine import check_sampling_machine
from diffsweep.runs.planning import command
from diffsweep.runs.planning.plans import RunPlan
from diffsweep.runs.stages import resolve_stages
from diffsweep.tasks.drawing import drawn_in_batches


class Trained(NamedTuple):
    """A result of :func:`train`: the directory of the finished run, and one number that measures it.

    Attributes:
        run: the directory of the run.
        metric: the number that sweeps minimise: FID, or the first other number that the run measures.
    """

    run: Path
    metric: float


def compose(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the checked configuration of a command under overrides as on the command line.

    Args:
        command: ``train``, ``evaluate``, ``sample``, ``benchmark`` or ``verify``.
        overrides: such as ``["schedule=linear", "trainer.max_steps=500"]``.

    Raises:
        UserError: an option, key or value is wrong, or parts are incompatible; the message is one line with what to use
            instead.
    """
    cfg = composing.compose(command, overrides)
    preflight(cfg)
    return cfg


def train(cfg: DictConfig) -> Trained:
    """Train a model, draw samples and measure them, and write all into the run's directory, ``cfg.paths.run_dir``.

    The configuration is checked again, since its values may have changed since it was composed.

    Args:
        cfg: a configuration of ``train``, from :func:`compose`.

    Raises:
        UserError: an option or value is wrong, parts are incompatible, or the directory has a run already.
    """
    preflight(cfg)
    metric = training.train(cfg)
    return Trained(Path(cfg.paths.run_dir), metric)


def plan(cfg: DictConfig) -> RunPlan:
    """Return what a training will cost, from a few steps of it: parameters, memory, time and disk; nothing is kept.

    ``plan(cfg).numbers()`` has all of it as plain values, ``plan(cfg).seconds`` the predicted time.

    Args:
        cfg: a configuration of ``train``, from :func:`compose`.

    Raises:
        UserError: an option or value is wrong, or the machine lacks what the training requires.
    """
    preflight(cfg)
    return command.plan(cfg)


def load(run: str | Path, overrides: Sequence[str] = ()) -> "Loaded":
    """Return a trained model with its averaged weights, ready to draw samples.

    Stages of the run that the overrides newly need, other trained models such as a classifier for guidance, are trained
    first.

    Args:
        run: the directory of a run.
        overrides: replace choices of the run, as for ``sample.py``: ``["sampler=ddim", "sampler.steps=20"]``.

    Raises:
        UserError: the directory has no run, an override does not suit it, or the machine lacks its device or precision.
    """
    cfg = compose("sample", [shell.override("run", str(run)), *overrides])
    check_sampling_machine(cfg)
    resolve_stages(cfg, training.train)
    return Loaded(cfg, execute(cfg, load_model(cfg)))


class Loaded:
    """A trained model, from :func:`load`, with its configuration.

    Attributes:
        cfg: the configuration of the run under the overrides.
        model: the LightningModule, with averaged weights, in evaluation mode.
    """

    def __init__(self, cfg: DictConfig, model: Model) -> None:
        self.cfg, self.model = cfg, model

    def sample(self, num_samples: int, seed: int = 0, batch_size: int = 256, **conditions: Any) -> Tensor:
        """Return new samples in [-1, 1] on the CPU: images (N, C, H, W) or clips (N, C, F, H, W).

        Sample i of a seed has the same noise for any batch size.

        Args:
            num_samples: N.
            seed: determines the noise of all samples.
            batch_size: samples that are drawn at once.
            conditions: keys of ``conditioning``, such as ``labels=[3]`` or ``prompts=["a red circle"]``; the samples
                have the values of a list in turn.

        Raises:
            UserError: the model draws no samples, ``num_samples`` or ``batch_size`` is below 1, or the conditioning has
                no such key or value.
        """
        if not isinstance(self.model, DiffusionModel):
            raise UserError(
                f"{self.cfg.paths.run_dir} is a run of model={self.cfg.choices.model}, which draws no samples"
            )
        if num_samples < 1 or batch_size < 1:
            raise UserError(f"num_samples and batch_size must be at least 1, not {num_samples} and {batch_size}")
        model, indices = self.model, torch.arange(num_samples)
        samples = build_data_if_found(self.cfg).deferred("val")
        request = self._conditioning(conditions).request(indices, samples)
        if model.control is not None:
            request |= model.control.request(indices, samples)
        with products(self.cfg):
            return drawn_in_batches(
                model, num_samples, batch_size, lambda rows: model.start(indices[rows], seed), request
            ).x

    def _conditioning(self, conditions: dict[str, Any]) -> Conditioning:
        """Return the run's conditioning with some of its settings replaced."""
        cfg = self.cfg.copy()
        cfg.conditioning = {**cfg.conditioning, **conditions}
        conditioning: Conditioning = build(cfg, "conditioning")
        return conditioning
