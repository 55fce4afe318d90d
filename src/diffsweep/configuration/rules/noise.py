"""Rules on noise that the frames of clips share."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def model_supports_shared_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Refuse shared noise for a model without noise; one saved before noise was an option has none."""
    if parts.noise.correlated and cfg.model.get("noise") is None:
        return (
            f"model={cfg.choices.model} has no noise that frames could share, as noise={cfg.choices.noise} has; use "
            "noise=independent"
        )
    return None
