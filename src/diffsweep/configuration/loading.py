"""Load the model of a finished run from its directory.

It is not done in :mod:`diffsweep.runs`, since parts below it need trained models too: guidance, perceptual losses,
latent spaces, metrics and proofs.
"""

import functools
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffsweep.adaptation import has_all_weights
from diffsweep.callbacks import averaged_weights
from diffsweep.callbacks.checkpoints import FOLDER, LAST, NAMES, Saved, read_weights, taking
from diffsweep.callbacks.power_averages import SumOfSnapshots, reconstruction
from diffsweep.configuration.adapters import add_adapters
from diffsweep.configuration.build import build_model, device_of
from diffsweep.configuration.check import is_of_kind, locate
from diffsweep.configuration.stage_nodes import saved_config
from diffsweep.errors import UserError
from diffsweep.layers.distributed import is_first
from diffsweep.models import DiffusionModel, Model
from diffsweep.tensor_files import saved_step


def load_model(cfg: DictConfig, averaged: bool = True) -> Model:
    """Return the model of a run with its averaged weights, in evaluation mode and without gradients.

    The model is on the GPU, if the machine has one and ``trainer.accelerator`` is not ``cpu``.

    Args:
        cfg: the run's configuration, with other choices of sampler and guidance if wanted; ``paths.run_dir`` is the
            directory that the weights are read from, ``checkpoint``, if any, which of its checkpoints, ``ema``, if any,
            the width of the average that is made of the run's snapshots in place of its moving average, and
            ``adapters``, if any, what is added to them.
        averaged: whether the weights are their moving average, if the run has one; otherwise those that train.

    Raises:
        UserError: the run has no checkpoint, its checkpoint belongs to another network, or is damaged; then the message
            has what to type to take the newest whole one. Or an adapter is of another base.
    """
    if (words := cfg.get("adapters")) and not averaged:
        raise UserError("adapters are added to averaged weights; leave weights=raw out")
    model = build_model(cfg, start=not has_all_weights(cfg.adaptation))
    path = _checkpoint_of(cfg)

    def fix(other: Saved) -> str:
        if "checkpoint" not in cfg:  # a stage
            return taking(path, other)
        return f"checkpoint={other.path.stem} takes that of step {other.step:,} in its place"

    checkpoint = read_weights(path, fix)
    weights = averaged_weights(checkpoint) if averaged else checkpoint["state_dict"]
    if averaged and (made := reconstruction_of(cfg)) is not None:
        if made.warning is not None and is_first():
            print(f"warning: {made.warning}", file=sys.stderr, flush=True)
        weights |= made.weights()
        model.average = made
    try:
        model.load_state_dict(model.with_given(weights))
    except RuntimeError as error:
        raise UserError(
            f"the weights in {path} do not fit this model; leave model, backbone and dataset as the run has them "
            f"({str(error).splitlines()[1].strip()})"
        ) from error
    model = model.to(device_of(cfg)).eval().requires_grad_(False)
    if words:
        add_adapters(model, words, trained, list(cfg.trust))
    return model


def _checkpoint_of(cfg: DictConfig) -> Path:
    """Return the file whose weights a command uses: ``checkpoint`` of its configuration, or the last one of a stage."""
    name = cfg.get("checkpoint", "last")
    if name not in NAMES:
        raise UserError(f"checkpoint={name}: it is one of {', '.join(NAMES)}")
    return Path(cfg.paths.run_dir) / FOLDER / NAMES[name]


def reconstruction_of(cfg: DictConfig) -> SumOfSnapshots | None:
    """Return how the average that ``ema`` requests is made of a run's snapshots; None without the key.

    Snapshots after the step of the checkpoint are not used.

    Args:
        cfg: the configuration of a command.

    Raises:
        UserError: ``ema`` is no width, or the run has kept no snapshots.
    """
    if (width := cfg.get("ema")) is None:
        return None
    path = _checkpoint_of(cfg)
    step = saved_step(path) if path.is_file() else None
    return reconstruction(Path(cfg.paths.run_dir), width, step)


def load_sampled(cfg: DictConfig) -> DiffusionModel:
    """Return the model of a run as :func:`load_model` does, if it is a diffusion model.

    Raises:
        UserError: the model draws no samples, as a classifier or an autoencoder, or it cannot be loaded.
    """
    model = load_model(cfg)
    if not isinstance(model, DiffusionModel):
        raise UserError(
            f"{cfg.paths.run_dir} is a run of model={cfg.choices.model}, which draws no samples; evaluate.py "
            "measures it, and sample.py takes a run of a diffusion model"
        )
    return model


def trained(
    run: str | None = None,
    train: list[str] | None = None,
    inherit: list[str] | None = None,
    kind: str | None = None,
    trust: list[str] | None = None,
) -> Model:
    """Return the model of a finished run with its averaged weights, in evaluation mode and without gradients.

    A configuration names this function where a part requires a trained model, such as the classifier of guidance. Parts
    that require the same run share one model in memory.

    Args:
        run: the directory of the run. If it is null, :func:`~diffsweep.runs.stages.resolve_stages` finds or trains a
            run and fills it in before this function is called.
        train: overrides of ``train.py`` with which the model is trained; null if a run must be given.
        inherit: configuration groups, such as ``dataset``, that this training takes, with all their values, from the
            run that requires the model.
        kind: the full name of the class that the model must be of; null for any.
        trust: packages besides diffsweep whose classes the run may name.

    Raises:
        UserError: ``run`` is null, is no finished run, or has a model of another class.
    """
    if run is None:
        raise UserError("a trained model is required and none is given; give the directory of its run")
    directory = Path(run).resolve()
    checkpoint = directory / FOLDER / LAST
    written = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
    model = _loaded(directory, written, tuple(trust or ()))
    if kind is not None and not is_of_kind(type(model), locate(kind, trust or ())):
        wanted = kind.rpartition(".")[2]
        raise UserError(f"{run} is of class {type(model).__name__}, and class {wanted} is required; give a run of one")
    return model


@functools.lru_cache(maxsize=8)  # the parts of a run that need the same model share its memory
def _loaded(directory: Path, written: int, trust: tuple[str, ...]) -> Model:
    with torch.random.fork_rng(devices=[]):  # the weights' first draw does not advance the caller's generator
        return load_model(saved_config(directory, trust))
