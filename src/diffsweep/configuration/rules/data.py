"""Rules on training data: random changes of them, by crops and dequantisation, and where they are kept."""

from omegaconf import DictConfig

from diffsweep.autoencoders import FirstStage
from diffsweep.configuration.rules.base import BuiltParts, note, rule
from diffsweep.metrics.likelihood import BoundLikelihood


@rule
def stored_latents_are_of_fixed_samples(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if latents are stored once, but training samples change at random from visit to visit.

    The stored latents would be those of one crop, and of values that are not dequantised.
    """
    if _latents_are_stored(parts) and parts.dataset.changes_at_random:
        keys = {"crop=random": getattr(parts.dataset, "crop", None) == "random", "dequantise": parts.dataset.dequantise}
        settings = " and ".join(f"dataset.{key}" for key, chosen in keys.items() if chosen)
        return (
            f"{settings} changes images at each visit, and autoencoder.cache=true stores their latents once; use "
            "autoencoder.cache=false, which encodes each batch, or leave it out"
        )
    return None


@rule
def images_on_the_device_are_stored(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if images are to be kept on the device that are made anew at each visit."""
    if parts.dataset.on_device is True and not parts.dataset.stores_images and not _latents_are_stored(parts):
        return (
            f"dataset.on_device=true keeps stored images on the device, and dataset={cfg.choices.dataset} draws, crops "
            "or decodes them when they are requested; use dataset.on_device=auto"
        )
    return None


def _latents_are_stored(parts: BuiltParts) -> bool:
    """Return whether training takes latents that are computed once in the place of images."""
    space, read = parts.autoencoder, (parts.conditioning, parts.adaptation)
    return isinstance(space, FirstStage) and space.cache and not any(part and part.requires_pixels for part in read)


@rule
def losses_of_levels_have_values_of_levels(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the loss is of probabilities of discrete values, but training data are dequantised.

    The variational bound has the probability of the bin around x_0, and a bin around a value between two levels is that
    of neither. Without levels the bound has the density in its place, which is right for such values.
    """
    if parts.dataset.dequantise and getattr(parts.objective, "levels", None) is not None:
        return (
            f"dataset.dequantise=true makes values continuous, and objective={cfg.choices.objective} has probabilities "
            f"of {cfg.space.levels} discrete ones; use objective.levels=null, which has densities, or "
            "dataset.dequantise=false"
        )
    return None


@note
def densities_are_measured_by_the_ode(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if a model of dequantised data is measured by a bound on the probability of discrete values.

    The bound holds, but it is loose: the model has learned the noise within the bins, which the bound counts as error.
    """
    if parts.dataset.dequantise and isinstance(parts.likelihood, BoundLikelihood):
        return (
            f"likelihood={cfg.choices.likelihood} bounds the probability of discrete values, which is loose after "
            "training with dataset.dequantise=true; likelihood=ode measures the density that is trained"
        )
    return None
