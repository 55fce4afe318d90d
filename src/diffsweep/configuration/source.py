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
    """A class or a function, and the module that defines it."""

    module: str
    node: ast.ClassDef | ast.FunctionDef


@functools.cache
def find(target: str) -> Definition | None:
    """Return the definition of a ``_target_``, which a module may have imported; None if it is not diffsweep's."""
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
    """Yield the classes that a class derives from."""
    for base in getattr(found.node, "bases", ()):
        if isinstance(base, ast.Name) and (definition := find(f"{found.module}.{base.id}")):
            yield definition


def summary(target: str) -> str:
    """Return the first line of the docstring of a ``_target_``, as plain text; empty if it has none."""
    found = find(target)
    return plain((ast.get_docstring(found.node) or "").partition("\n")[0]) if found else ""


def argument(target: str, name: str) -> str:
    """Return the text of an argument of a ``_target_``; empty if no docstring has one.

    It is that of its own docstring, or else of the dataclass of its options or of a base.
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
    """Return a text without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`", r"\1", text)
    return re.sub(r"`+([^`]*)`+", r"\1", text).strip()


@functools.cache
def _body(module: str) -> list[ast.stmt]:
    """Return the statements of a module of diffsweep; none of another's."""
    path = SRC.joinpath(*module.split("."))
    files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return ast.parse(files[0].read_text(encoding="utf-8")).body if files else []
