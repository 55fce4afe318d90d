"""Load the model of a finished run from its directory.

It is not done in :mod:`diffsweep.runs`, since parts below it need trained models too: guidance, perceptual losses,
latent spaces, metrics and proofs.
"""

import functools
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffsweep.callbacks import averaged_weights
from diffsweep.callbacks.checkpoints import FOLDER, LAST, read_checkpoint
from diffsweep.configuration.build import build_model, device_of
from diffsweep.configuration.check import is_of_kind, locate
from diffsweep.configuration.stage_nodes import saved_config
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel, Model


def load_model(cfg: DictConfig) -> Model:
    """Return the model of a run with its averaged weights, in evaluation mode, on the GPU if the machine has one.

    Args:
        cfg: the run's configuration, with other choices of sampler and guidance if wanted.

    Raises:
        UserError: the run has no checkpoint, or its checkpoint belongs to another network.
    """
    model = build_model(cfg)
    path = Path(cfg.paths.run_dir) / FOLDER / LAST
    weights = averaged_weights(read_checkpoint(path))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {path} do not fit this model; leave model, backbone and dataset as the run has them "
            f"({str(error).splitlines()[1].strip()})"
        ) from error
    return model.to(device_of(cfg)).eval().requires_grad_(False)


def load_sampled(cfg: DictConfig) -> DiffusionModel:
    """Return the model of a run as :func:`load_model` does, if it draws samples.

    Raises:
        UserError: it draws none, as a classifier.
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
    """Return the model of a run with its averaged weights: in evaluation mode, its weights without gradients.

    Args:
        run: the directory of the run. If it is null, :func:`~diffsweep.runs.stages.resolve_stages` fills it in.
        train: overrides of ``train.py`` that train the model; null if a run must be given.
        inherit: groups that training takes from the run that needs the model, with all their values.
        kind: the class that the model must be of, by its full name.
        trust: packages besides diffsweep whose classes the run may name.

    Raises:
        UserError: the run does not exist, or its model is of another class.
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
