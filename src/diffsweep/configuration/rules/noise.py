"""Rules on noise that the frames of clips share."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def model_supports_shared_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A model without diffusion has no noise, nor has one saved before noise was an option."""
    if parts.noise.correlated and cfg.model.get("noise") is None:
        return (
            f"model={cfg.choices.model} has no noise that frames could share, as noise={cfg.choices.noise} has; use "
            "noise=independent"
        )
    return None
