"""Rebuilds a finished run from its directory."""

from pathlib import Path

from omegaconf import DictConfig

from diffsweep.callbacks import averaged_weights
from diffsweep.models import DiffusionModel, Model
from diffsweep.runs.build import build_model, device_of
from diffsweep.runs.checkpoints import FOLDER, LAST, read_checkpoint
from diffsweep.runs.errors import UserError


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
