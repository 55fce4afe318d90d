"""Rebuilds a finished run from its directory."""

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
    """The model of a run with its averaged weights, to be used as it is, on the GPU where there is one.

    Args:
        cfg: the run's configuration, with other choices of sampler and guidance if wanted.

    Raises:
        UserError: there is no checkpoint, or it belongs to another network.
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
    """As :func:`load_model`, of a run whose model draws samples.

    Raises:
        UserError: it is another kind of model.
    """
    model = load_model(cfg)
    if not isinstance(model, DiffusionModel):
        raise UserError(
            f"{cfg.paths.run_dir} is a run of model={cfg.choices.model}, which draws no samples; evaluate.py measures it, and sample.py "
            "takes a run of a diffusion model"
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
        run: the run's directory. Where it is null, :func:`~diffsweep.runs.stages.resolve_stages` fills it in.
        train: overrides of ``train.py`` that train the model; null where a run must be given.
        inherit: groups that training takes from the run at hand, with all their values.
        kind: the class that the model must be of, by its full name.
        trust: packages beside diffsweep that the run may name classes of.

    Raises:
        UserError: there is no such run, or it is not what is needed.
    """
    if run is None:
        raise UserError("a trained model is needed and none is given; give the directory of its run")
    directory = Path(run).resolve()
    checkpoint = directory / FOLDER / LAST
    written = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
    model = _loaded(directory, written, tuple(trust or ()))
    if kind is not None and not is_of_kind(type(model), locate(kind, trust or ())):
        raise UserError(f"{run} is a {type(model).__name__}, and a {kind.rpartition('.')[2]} is needed")
    return model


@functools.lru_cache(maxsize=8)  # the parts of a run that need the same model share its memory
def _loaded(directory: Path, written: int, trust: tuple[str, ...]) -> Model:
    with torch.random.fork_rng(devices=[]):  # the weights' first draw does not advance the caller's generator
        return load_model(saved_config(directory, trust))
