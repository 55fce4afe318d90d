"""Rules on cascades: the lower stage draws smaller images of the same size of data, under the same request."""

from omegaconf import DictConfig

from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.configuration.sizes import instantiated

PATH = "cascade.base"


@rule
def lower_stage_is_of_a_lower_resolution(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the lower stage of a cascade draws images that are not smaller, or of other data."""
    stage = parts.stages.get(PATH)
    if stage is None or stage.space is None:
        return None
    theirs, ours = stage.space, parts.autoencoder
    pixels = [(space.in_channels, space.shape[-1] * space.factor) for space in (theirs, ours)]
    if pixels[0] != pixels[1]:
        known, wanted = (f"{channels} channels and {side} pixels a side" for channels, side in pixels)
        return f"{PATH} makes images of {known}, and this stage those of {wanted}; give a run of the same dataset"
    if theirs.shape[-1] >= ours.shape[-1]:
        return (
            f"{PATH} draws {theirs.shape[-1]} x {theirs.shape[-1]} numbers, and this stage {ours.shape[-1]} x "
            f"{ours.shape[-1]}, so none are left to add; use a lower stage with autoencoder=low_res, or a larger factor"
        )
    return None


@rule
def lower_stage_has_the_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the lower stage of a cascade has a condition that this stage does not have."""
    stage = parts.stages.get(PATH)
    if stage is None or stage.cfg is None:
        return None
    theirs, ours = instantiated(stage.cfg, "conditioning").sizes, parts.conditioning.sizes
    for name, size in theirs.items():
        if ours.get(name) != size:
            choice = stage.cfg.choices.conditioning
            return (
                f"{PATH} has conditioning={choice} with {name}={size}, and this stage has conditioning="
                f"{cfg.choices.conditioning} with {name}={ours.get(name)}; use conditioning={choice}, or a lower stage "
                "without it"
            )
    return None


@rule
def lower_stage_and_conditioning_provide_different_parts(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the conditioning provides a part of the condition that a lower stage fills too."""
    if parts.cascade is not None and (twice := sorted(parts.cascade.sizes.keys() & parts.conditioning.sizes.keys())):
        return (
            f"the lower stage of a cascade provides {' and '.join(twice)} of the condition, and so does conditioning="
            f"{cfg.choices.conditioning}; use conditioning=none, class or text"
        )
    return None
