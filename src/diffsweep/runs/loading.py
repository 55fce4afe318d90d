"""Rebuilds a finished run from its directory."""

from pathlib import Path

from omegaconf import DictConfig

from diffsweep.callbacks import averaged_weights
from diffsweep.models import DiffusionModel
from diffsweep.runs.build import build_model, device_of
from diffsweep.runs.checkpoints import FOLDER, LAST, read_checkpoint
from diffsweep.runs.errors import UserError


def load_model(cfg: DictConfig) -> DiffusionModel:
    """The model of a run with its averaged weights, for sampling, on the GPU where there is one.

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
