"""Rules on averages of weights."""

from omegaconf import DictConfig

from diffsweep.callbacks import EMA, PowerAverages
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


@rule
def the_average_is_updated(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if training ends before the average is updated for the first time.

    It would be evaluated and sampled, and it would be the initial weights.
    """
    steps = cfg.trainer.max_steps
    for name, part in parts.callbacks.items():
        if isinstance(part, EMA) and part.every > steps >= 1:
            return (
                f"callbacks.{name}.every={part.every} is more than trainer.max_steps={steps}, so the average would "
                f"stay at the initial weights; use callbacks.{name}.every=1"
            )
    return None
