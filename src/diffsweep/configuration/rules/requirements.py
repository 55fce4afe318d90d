"""Rules on what parts declare: one requires what another provides, and supports what another provides."""

from collections.abc import Iterable

from omegaconf import DictConfig

from diffsweep.capabilities import CAPABILITIES, Declared, declared_by
from diffsweep.configuration.declarations import declared, families, listed
from diffsweep.configuration.rules.base import BuiltParts, rule
from diffsweep.configuration.spelling import nearest
from diffsweep.errors import UserError


@rule
def required_capabilities_are_provided(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a part requires a capability that no part of the run provides.

    Capabilities are names such as ``grid``, the T steps of a discrete schedule;
    :data:`~diffsweep.capabilities.CAPABILITIES` has them, with the groups that can provide each. The message names
    options and settings that mend it.

    Raises:
        UserError: a part declares an unknown capability.
    """
    for group, part in parts:
        for name in _known(declared_by(part).requires):
            needed = CAPABILITIES[name]
            if any(name in declared_by(other).provides for giver in needed.givers for other in parts.of(giver)):
                continue
            giver, without = needed.givers[0], needed.settings.get(group)
            fixes = (
                needed.choice,
                _options(cfg, parts, giver, "provides", name),
                without or _options(cfg, parts, group, "requires", name, having=False),
            )
            return _sentence(cfg, group, f"requires {needed.noun}", giver, "does not provide that", fixes)
    return None


@rule
def provided_capabilities_are_supported(cfg: DictConfig, parts: BuiltParts) -> str | None:
    """Return an error message if a part provides a capability that no part which would have to use it supports.

    For example, a dataset of clips provides ``clips``, which the backbone or the model must support. The groups that
    must are the ``users`` of the capability; one without users need not be supported.

    Raises:
        UserError: a part declares an unknown capability.
    """
    for group, part in parts:
        for name in _known(declared_by(part).provides):
            brought = CAPABILITIES[name]
            others = [other for user in brought.users for other in parts.of(user)]
            if not others or any(name in declared_by(other).supports for other in others):
                continue
            user, without = brought.users[0], brought.settings.get(group)
            fixes = (
                _options(cfg, parts, user, "supports", name),
                without or _options(cfg, parts, group, "provides", name, having=False),
            )
            return _sentence(cfg, group, f"provides {brought.noun}", user, "does not support that", fixes)
    return None


def _known(names: Iterable[str]) -> list[str]:
    """Return capabilities in the order of the vocabulary."""
    if unknown := sorted(set(names) - CAPABILITIES.keys()):
        raise UserError(f"a part declares {unknown[0]}: no such capability{nearest(unknown[0], list(CAPABILITIES))}")
    return [name for name in CAPABILITIES if name in names]


def _options(cfg: DictConfig, parts: BuiltParts, group: str, field: str, name: str, having: bool = True) -> str:
    """Return the options of a group that declare a capability, or do not, and fit the rest of the run."""
    _, supported, given = (
        frozenset().union(*sets) for sets in zip(*(declared_by(part) for _, part in parts), strict=True)
    )
    used = declared(group, str(cfg.choices.get(group))).supports & given

    def goes(one: Declared) -> bool:
        brought = {name for name in one.provides if CAPABILITIES[name].users}
        return one.requires <= given | one.provides and used <= one.supports and brought <= supported | one.supports

    lacking = {str(cfg.choices.get(group))} if having else set()  # the chosen option, of whose parts one may have it
    found = {option: declared(group, option) for option in families(group) if option not in lacking}
    return listed(group, [o for o, one in found.items() if (name in getattr(one, field)) == having and goes(one)])


def _sentence(cfg: DictConfig, group: str, has: str, other: str, lacks: str, fixes: Iterable[str]) -> str:
    use = ", or ".join(filter(None, fixes)) or f"another {group}"
    return f"{group}={cfg.choices.get(group)} {has}, and {other}={cfg.choices.get(other)} {lacks}; use {use}"
