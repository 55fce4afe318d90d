"""What options require, support and provide (:mod:`diffsweep.capabilities`), read from the source of their classes.

Nothing is imported, so ``--help`` starts without torch. What depends on a setting is not seen.
"""

import ast
import functools
from collections.abc import Iterator

from diffsweep.capabilities import CAPABILITIES, Declared
from diffsweep.configuration.conf import defaults, groups, options, parents, targets
from diffsweep.configuration.source import Definition, bases, find

MOST = 4  # options of a group that a sentence names


@functools.cache
def declared(group: str, option: str) -> Declared:
    """Return the capabilities that the class of an option declares to require, support and provide.

    They are names of :data:`~diffsweep.capabilities.CAPABILITIES`, such as ``clips``, read from the source of the
    class. What depends on a setting is not seen. An option of several things (``callbacks``) has the capabilities of
    all.
    """
    found = [definition for target in targets(group, option) if (definition := find(target))]
    classes = [_declarations(definition) for definition in found]
    return Declared(*(frozenset().union(*(one.get(field, ()) for one in classes)) for field in Declared._fields))


def _declarations(found: Definition) -> dict[str, frozenset[str]]:
    """Return the declarations of a class, its own or those of its bases."""
    own = {
        line.targets[0].id: _names(line.value)
        for line in found.node.body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and line.targets[0].id in Declared._fields
    }
    for base in bases(found):
        own = _declarations(base) | own
    return own


def _names(value: ast.expr) -> frozenset[str]:
    """Return the names in ``frozenset({"grid"})``."""
    arguments = value.args if isinstance(value, ast.Call) else [value]
    return frozenset(name for argument in arguments for name in ast.literal_eval(argument))


def listed(group: str, names: list[str]) -> str:
    """Return options of a group as a user types them, such as ``schedule=cosine, linear``; empty if none is given.

    The group's default comes first, the others in alphabetical order. Only :data:`MOST` are named, then ``...``
    follows.
    """
    first = sorted(names, key=lambda name: (name != defaults().get(group), name))
    return f"{group}={', '.join(first[:MOST])}{', ...' * (len(first) > MOST)}" if names else ""


def families(group: str) -> list[str]:
    """Return the options of a group that start from no other option of it, and so are not presets."""
    return [option for option in options(group) if not parents(group, option)]


@functools.cache
def having(field: str, name: str, groups: tuple[str, ...]) -> str:
    """Return the options that require, support or provide a capability, as ``schedule=cosine, linear; noise=shared``.

    Args:
        field: ``requires``, ``supports`` or ``provides``.
        name: the capability, a key of :data:`~diffsweep.capabilities.CAPABILITIES`.
        groups: the configuration groups to search; presets are left out.
    """
    every = {group: [o for o in families(group) if name in getattr(declared(group, o), field)] for group in groups}
    return "; ".join(listed(group, names) for group, names in every.items() if names)


def providers(name: str) -> str:
    """Return the options, or the setting, that provide a capability, as a user types them; empty if none does."""
    capability = CAPABILITIES[name]
    return ", or ".join(dict.fromkeys(filter(None, (having("provides", name, capability.givers), capability.choice))))


def requirements() -> list[str]:
    """Return lines "OPTIONS only with OPTIONS (capability)", for each capability that ties options to others."""
    lines = []
    for name, capability in CAPABILITIES.items():
        give = providers(name)
        lines.append((having("requires", name, tuple(defaults())), give, capability.noun))
        lines.append((give, having("supports", name, capability.users), capability.noun))
    return [f"{these} only with {those} ({noun})" for these, those, noun in lines if these and those]


def relations(group: str, option: str) -> Iterator[str]:
    """Yield a sentence for each capability by which an option depends on options of other groups, which it names.

    The option requires the capability, provides it to others that must support it, or supports it.
    """
    own = declared(group, option)
    of = {field: [name for name in CAPABILITIES if name in getattr(own, field)] for field in Declared._fields}
    for name in of["requires"]:
        if name not in own.provides:
            capability = CAPABILITIES[name]
            yield _sentence(f"Requires {capability.noun}: {providers(name) or ' or '.join(capability.givers)}")
    for name in of["provides"]:
        noun, users = CAPABILITIES[name].noun, CAPABILITIES[name].users
        if users and name not in own.supports:
            yield _sentence(f"Provides {noun}: only with {having('supports', name, users)}")
        elif not users and not _by_default(name) and (taken := having("requires", name, tuple(groups()))):
            yield _sentence(f"Provides {noun}, which these require: {taken}")
    for name in of["supports"]:
        if name not in own.requires and (give := providers(name)):
            yield _sentence(f"Supports {CAPABILITIES[name].noun}: {give}")


@functools.cache
def _by_default(name: str) -> bool:
    """Return whether the option that a command starts from provides a capability."""
    return any(name in declared(group, option).provides for group, option in defaults().items() if option is not None)


def _sentence(text: str) -> str:
    return text if text.endswith("...") else f"{text}."
