"""Rules on noise that the frames of clips share."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule


@rule
def model_supports_shared_noise(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the frames of clips are to share noise, but the model has no ``noise``.

    So it is with models that add no noise to frames, and in runs saved before noise was an option.
    """
    if parts.noise.correlated and cfg.model.get("noise") is None:
        return (
            f"model={cfg.choices.model} has no noise that frames could share, as noise={cfg.choices.noise} has; use "
            "noise=independent"
        )
    return None
