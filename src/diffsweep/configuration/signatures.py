"""Read the keywords that a class takes and their types, also those that its constructor passes on."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def _own_parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(target).parameters.items() if name != "self"}


def _makers(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the functions that take the keywords of a target: a function itself, or the constructor of a class.

    A constructor that passes other keywords on (``**settings``) passes them to the dataclass ``Options`` of its class,
    or to the constructor of its base class, which follow in the list.
    """
    if not inspect.isclass(target):
        return [target]
    makers: list[Callable[..., Any]] = []
    for kind in target.__mro__[:-1]:
        if "__init__" in vars(kind):
            makers.append(vars(kind)["__init__"])
            if inspect.isclass(options := vars(kind).get("Options")):
                makers.append(options.__init__)
                break
            if all(p.kind is not p.VAR_KEYWORD for p in _own_parameters(makers[-1]).values()):
                break
    return makers or [target]


def keywords_of(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the keyword arguments that a class or function takes, and whether it takes any others (``**settings``).

    A constructor that passes ``**settings`` on, to the dataclass ``Options`` of its class or to the constructor of its
    base class, takes their keyword arguments too.

    Returns:
        the parameters by name, and whether the last of these constructors accepts keywords of any name.
    """
    makers = _makers(target)
    every = {name: p for maker in reversed(makers) for name, p in _own_parameters(maker).items()}
    anything = any(p.kind is p.VAR_KEYWORD for p in _own_parameters(makers[-1]).values())
    return {name: p for name, p in every.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}, anything


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the keywords that a class or function takes, by name; empty if they cannot be resolved."""
    try:
        return {name: hint for maker in reversed(_makers(target)) for name, hint in get_type_hints(maker).items()}
    except Exception:  # names that are imported for type checkers alone
        return {}
