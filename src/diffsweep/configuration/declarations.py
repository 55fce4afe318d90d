"""What options declare (:mod:`diffsweep.capabilities`), read from the source of their classes: nothing is imported, so
``--help`` starts light. What depends on a setting is not seen."""

import ast
import functools
from collections.abc import Collection
from pathlib import Path

from diffsweep.capabilities import CAPABILITIES, Declared
from diffsweep.configuration.conf import defaults, options, parents, targets

SRC = Path(__file__).resolve().parents[2]
MOST = 4  # options of a group that a sentence names


@functools.cache
def declared(group: str, option: str) -> Declared:
    """Return what the class of an option declares; of a group of several things (callbacks) all that they do."""
    classes = [_of_class(*target.rpartition(".")[::2]) for target in targets(group, option)]
    return Declared(*(frozenset().union(*(one.get(field, ()) for one in classes)) for field in Declared._fields))


@functools.cache
def _of_class(module: str, name: str) -> dict[str, frozenset[str]]:
    """The declarations of a class, its own or those of its bases, by the name that a module has it under."""
    for node in _body(module):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _of_class(str(node.module), alias.name)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            found = {
                line.targets[0].id: _names(line.value)
                for line in node.body
                if isinstance(line, ast.Assign)
                and isinstance(line.targets[0], ast.Name)
                and line.targets[0].id in Declared._fields
            }
            for base in node.bases:
                if isinstance(base, ast.Name):
                    found = _of_class(module, base.id) | found
            return found
    return {}


def _names(value: ast.expr) -> frozenset[str]:
    """The literal in ``frozenset({"grid"})``."""
    arguments = value.args if isinstance(value, ast.Call) else [value]
    return frozenset(name for argument in arguments for name in ast.literal_eval(argument))


@functools.cache
def _body(module: str) -> list[ast.stmt]:
    """The statements of a module of diffsweep; none of another's."""
    path = SRC.joinpath(*module.split("."))
    files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return ast.parse(files[0].read_text(encoding="utf-8")).body if files else []


def listed(group: str, names: list[str]) -> str:
    """Return options as a user types them, ``schedule=cosine, linear``: at most :data:`MOST`, the default first."""
    first = sorted(names, key=lambda name: (name != defaults().get(group), name))
    return f"{group}={', '.join(first[:MOST])}{', ...' * (len(first) > MOST)}" if names else ""


def families(group: str) -> list[str]:
    """Return the options of a group but those that start from another of it."""
    return [option for option in options(group) if not parents(group, option)]


def requirements() -> list[str]:
    """Return lines of which options go only with which others: those that need something, and those that bring what
    others have to support."""
    every = {(group, option): declared(group, option) for group in defaults() for option in families(group)}

    def having(field: str, name: str, groups: Collection[str]) -> str:
        found = {group: [o for g, o in every if g == group and name in getattr(every[g, o], field)] for group in groups}
        return "; ".join(listed(group, names) for group, names in found.items() if names)

    lines = []
    for name, capability in CAPABILITIES.items():
        bring = having("provides", name, capability.givers)
        give = ", or ".join(filter(None, (bring, capability.choice)))
        lines.append((having("requires", name, defaults()), give, capability.noun))
        lines.append((give, having("supports", name, capability.users), capability.noun))
    return [f"{these} only with {those} ({noun})" for these, those, noun in lines if these and those]
