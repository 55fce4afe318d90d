"""Rules on models that train an autoencoder."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.models.autoencoder import NOTHING


@rule
def trained_autoencoder_has_a_network(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the model trains an autoencoder, but the chosen one (``identity``) has no network."""
    if "reconstructions" in parts.model.provides and cfg.model.autoencoder is None:
        return f"autoencoder={cfg.choices.autoencoder}: {NOTHING}"
    return None


@rule
def autoencoder_run_is_for_latent_diffusion(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if ``autoencoder.run`` gives a trained autoencoder to a model that trains one."""
    if "reconstructions" in parts.model.provides and cfg.autoencoder.get("run") is not None:
        return (
            f"autoencoder.run={cfg.autoencoder.run} gives a trained autoencoder to latent diffusion, and "
            f"model={cfg.choices.model} trains one; use resume=RUN to go on, or model=ldm"
        )
    return None
