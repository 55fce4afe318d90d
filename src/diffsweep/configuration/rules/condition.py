"""Rules on conditions, the networks that accept them, and guidance by them."""

from omegaconf import DictConfig

from diffsweep.capabilities import CAPABILITIES
from diffsweep.configuration.rules.base import BuiltParts, note, rule


def _spoken(names: list[str]) -> str:
    return ", ".join(CAPABILITIES[name].noun for name in names) or "nothing"


@rule
def network_accepts_the_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the conditioning provides a part of the condition that nothing uses in its size.

    The parts are ``num_classes``, ``context_dim`` and others, with sizes. Either the network accepts a part in the same
    size, or guidance requires it and the network does not accept it.
    """
    accepted, used = parts.accepted, {name for guidance in parts.guidance for name in guidance.requires}
    for name, size in parts.condition_sizes.items():
        given = f"conditioning={cfg.choices.conditioning} provides {_spoken([name])}"
        if name not in accepted and name not in used:
            return (
                f"{given}, and backbone={cfg.choices.backbone} accepts {_spoken(list(accepted))}; use "
                f"backbone.{name}={size} if the backbone has that key (unet and dit have it), or another conditioning"
            )
        if name in accepted and accepted[name] != size:
            return f"{given}, {name}={size}, and the network has {name}={accepted[name]}; use backbone.{name}={size}"
    return None


@rule
def guided_network_accepts_the_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if guidance compares the network with and without a condition, but it accepts none."""
    evaluated = any("null_condition" in guidance.requires for guidance in parts.guidance)
    if evaluated and parts.conditioning.sizes and not parts.conditioning.sizes.keys() & parts.accepted.keys():
        return (
            f"guidance={cfg.choices.guidance} requires a network that accepts the condition, and this one does not; "
            "use guidance=classifier, or backbone.num_classes=${condition.num_classes}"
        )
    return None


@rule
def degraded_images_are_no_clips(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if the condition is a degraded copy of the sample, but the data are clips."""
    if cfg.space.num_frames is None or not parts.conditioning.requires_pixels:
        return None
    return (
        f"conditioning={cfg.choices.conditioning} degrades images, and the samples are clips; use conditioning=none, "
        "and task=upscale or extend with guidance=reconstruction"
    )


@note
def conditioning_provides_what_the_network_accepts(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return a warning if the network accepts a part of a condition that the conditioning does not provide.

    Such a network always predicts for the null condition.
    """
    if missing := sorted(parts.accepted.keys() - parts.condition_sizes.keys()):
        return f"the network accepts {_spoken(missing)}, which the conditioning does not provide"
    return None
