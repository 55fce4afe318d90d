"""Noise that the frames of clips share."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def model_supports_shared_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Not where there is no diffusion, nor in a run of before there was a choice."""
    if parts.noise.correlated and cfg.model.get("noise") is None:
        return (
            f"model={cfg.choices.model} has no noise that frames could share, as noise={cfg.choices.noise} has; use "
            "noise=independent"
        )
    return None
