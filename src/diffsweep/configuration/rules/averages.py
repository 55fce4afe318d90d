"""Rules on averages of weights with profiles of several widths."""

from omegaconf import DictConfig

from diffsweep.callbacks import PowerAverages
from diffsweep.configuration.loading import reconstruction_of
from diffsweep.configuration.rules.base import BuiltParts, limit, rule
from diffsweep.errors import UserError
from diffsweep.models import Model


@limit
def the_average_is_made_of_snapshots(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``ema`` requests an average, and the run has kept no snapshots to make it of."""
    try:
        reconstruction_of(cfg)
    except UserError as error:
        return str(error)
    return None


@rule
def one_profile_is_of_one_training(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if averages of several widths are kept of a model that is trained in rounds.

    Each round starts from the averaged weights of the one before, and weights of two rounds are of two networks.
    """
    kept = any(isinstance(callback, PowerAverages) for callback in parts.callbacks.values())
    if kept and parts.model.round_at is not Model.round_at:
        return (
            f"callbacks={cfg.choices.callbacks} averages over the whole training, and model={cfg.choices.model} is "
            "trained in rounds, each of another network; use callbacks=default"
        )
    return None
