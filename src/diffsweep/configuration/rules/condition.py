"""Conditions, the networks that are told them, and guidance that leads to them."""

from omegaconf import DictConfig

from diffsweep.capabilities import CAPABILITIES
from diffsweep.configuration.rules.base import BuiltParts, note, rule


def _spoken(names: list[str]) -> str:
    return ", ".join(CAPABILITIES[name].noun for name in names) or "nothing"


@rule
def network_accepts_the_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Each part of it, in the size that it has; or guidance, which has a use for it itself."""
    accepted, used = parts.accepted, {name for guidance in parts.guidance for name in guidance.requires}
    for name, size in parts.conditioning.sizes.items():
        told = f"conditioning={cfg.choices.conditioning} gives {_spoken([name])}"
        if name not in accepted and name not in used:
            return (
                f"{told}, and backbone={cfg.choices.backbone} takes {_spoken(list(accepted))}; use "
                f"backbone.{name}={size} where the backbone has that key (backbone=unet and dit have), or another conditioning"
            )
        if name in accepted and accepted[name] != size:
            return f"{told}, {name}={size}, and the network has {name}={accepted[name]}; use backbone.{name}={size}"
    return None


@rule
def guided_network_accepts_the_condition(cfg: DictConfig, parts: BuiltParts) -> str | None:
    asked = any("null_condition" in guidance.requires for guidance in parts.guidance)
    if asked and parts.conditioning.sizes and not parts.conditioning.sizes.keys() & parts.accepted.keys():
        return (
            f"guidance={cfg.choices.guidance} needs a network that is told the condition, and this one is not; use "
            "guidance=classifier, or backbone.num_classes=${condition.num_classes}"
        )
    return None


@note
def conditioning_provides_what_the_network_accepts(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """A network that could be told something, and is not, always answers for the null condition."""
    if missing := sorted(parts.accepted.keys() - parts.conditioning.sizes.keys()):
        return f"the network takes {_spoken(missing)}, which the conditioning does not give"
    return None
