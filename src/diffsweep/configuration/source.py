"""Read classes of diffsweep from their source, without importing them: ``--help`` has to start without torch."""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SRC = Path(__file__).resolve().parents[2]
SECTIONS = ("Args:", "Attributes:")


class Definition(NamedTuple):
    """The syntax tree of a class or function of diffsweep.

    Attributes:
        module: the name of the module that defines it.
        node: its node in the module's tree.
    """

    module: str
    node: ast.ClassDef | ast.FunctionDef


@functools.cache
def find(target: str) -> Definition | None:
    """Return the definition of a class or function of diffsweep by its full name, without importing it.

    A name that a module imports from another is followed to the other.

    Args:
        target: the full name, as a ``_target_`` has it (``diffsweep.samplers.DDIM``).

    Returns:
        the definition, or None if the name is not diffsweep's or does not exist.
    """
    module, _, name = target.rpartition(".")
    for node in _body(module):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(module, node)
    return None


def bases(found: Definition) -> Iterator[Definition]:
    """Yield the definitions of the classes of diffsweep that a class directly derives from."""
    for base in getattr(found.node, "bases", ()):
        if isinstance(base, ast.Name) and (definition := find(f"{found.module}.{base.id}")):
            yield definition


def summary(target: str) -> str:
    """Return the first line of the docstring of a class or function of diffsweep, without importing it.

    Args:
        target: the full name, as a ``_target_`` has it.

    Returns:
        the line as plain text; empty if it has no docstring, or is not diffsweep's.
    """
    found = find(target)
    return plain((ast.get_docstring(found.node) or "").partition("\n")[0]) if found else ""


def argument(target: str, name: str) -> str:
    """Return the description of an argument of a class of diffsweep from docstrings, without importing it.

    It is taken from the docstring of the class, or else from that of the dataclass ``Options`` of its options, or else
    from that of a base class.

    Args:
        target: the full name of the class or function, as a ``_target_`` has it.
        name: the name of the argument.

    Returns:
        the description as plain text; empty if no docstring has one.
    """
    found = find(target)
    return _argument(found, name) if found else ""


def _argument(found: Definition, name: str) -> str:
    text = _arguments(ast.get_docstring(found.node) or "").get(name, "")
    if text and not re.search(r"(^|, )see ", text):  # a reference: the text is that of a base
        return text
    options = [
        definition
        for line in found.node.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "Options"
        if (definition := find(f"{found.module}.{ast.unparse(line.value)}"))
    ]
    return next(filter(None, (_argument(other, name) for other in (*options, *bases(found)))), "")


def _arguments(docstring: str) -> dict[str, str]:
    """Return the text of each name under ``Args`` and ``Attributes``; ``a, b: text`` is of both."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(docstring).splitlines():
        if not line.startswith(" "):
            inside, names = (inside if not line else line in SECTIONS), names if not line else []
        elif inside and (match := re.match(r" {4}(\w+(?:, \w+)*):(?: |$)(.*)", line)):
            names = match[1].split(", ")
            found.update(dict.fromkeys(names, match[2].strip()))
        elif names:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return {name: plain(text) for name, text in found.items()}


def plain(text: str) -> str:
    """Return a text without the markup of reStructuredText: backquotes, and roles such as ``:class:``."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", text)
    return re.sub(r"`+([^`]*)`+", r"\1", text).strip()


@functools.cache
def _body(module: str) -> list[ast.stmt]:
    """Return the statements of a module of diffsweep; none of another's."""
    path = SRC.joinpath(*module.split("."))
    files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return ast.parse(files[0].read_text(encoding="utf-8")).body if files else []
