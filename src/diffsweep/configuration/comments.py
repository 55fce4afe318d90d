"""Read a file of conf/ with its comments: what its header states, and the value and comment of each key."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

GLOBAL = "# @package _global_"  # the first line of a file whose keys are those of the root


class Entry(NamedTuple):
    """A key of a YAML file of conf/, with its value and its comment as they are written.

    Attributes:
        key: with dots if it lies in other keys: ``encoder.width``.
        value: the text of its value, as a user types it; empty for a mapping that has keys of its own.
        comment: the comment behind the value, or that on the lines above the key; empty if none.
    """

    key: str
    value: str
    comment: str


class Text(NamedTuple):
    """The keys, values and comments of a YAML file of conf/.

    Attributes:
        header: the lines of the comment that the file begins with, without ``#``.
        is_global: whether the file begins with ``# @package _global_``, so that its keys are those of the root of the
            configuration; otherwise they are those of the file's group.
        entries: the keys, in their order; a mapping stands before the keys in it.
    """

    header: tuple[str, ...]
    is_global: bool
    entries: tuple[Entry, ...]


@functools.cache
def text_of(path: Path) -> Text:
    """Return the keys, values and comments of a YAML file; empty ones if the file does not exist."""
    import yaml  # here: tab completion should not wait for it

    if not path.is_file():
        return Text((), False, ())
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    is_global = lines[:1] == [GLOBAL]
    begin = end = int(is_global)
    while end < len(lines) and lines[end].startswith("#"):
        end += 1
    root = yaml.compose(content, Loader=loader)
    found = tuple(_entries(root, content, lines, end)) if isinstance(root, yaml.MappingNode) else ()
    return Text(tuple(line.lstrip("# ") for line in lines[begin:end]), is_global, found)


def header_of(path: Path) -> list[str]:
    """Return the lines of the comment that a YAML file begins with, without ``#``; the rest is not read.

    The line ``# @package _global_``, which is for Hydra, is left out.
    """
    lines = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                break
            lines.append(line.strip())
    return [line.lstrip("# ") for line in lines if line != GLOBAL]


def _entries(node: Any, content: str, lines: list[str], top: int, prefix: str = "") -> Iterator[Entry]:
    """Yield the keys of a mapping, each followed by those in it; the header ends above line number ``top``."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        text = _text(value, content)
        comment = _behind(key, value, lines) or _above(key.start_mark.line, lines, top)
        yield Entry(name, text, comment)
        if value.id == "mapping":
            yield from _entries(value, content, lines, top, f"{name}.")


def _text(value: Any, content: str) -> str:
    """Return a value as a user types it; empty for a mapping that has keys of its own."""
    if value.id == "scalar" or value.flow_style:
        return content[value.start_mark.index : value.end_mark.index].strip()
    return f"[{', '.join(_text(item, content) for item in value.value)}]" if value.id == "sequence" else ""


def _behind(key: Any, value: Any, lines: list[str]) -> str:
    """Return the comment behind a value, or behind the key of a value that lies on other lines."""
    line = key.end_mark.line
    on_line = value.start_mark.line == value.end_mark.line == line
    rest = lines[line][(value if on_line else key).end_mark.column :]
    found = re.search(r"\s#\s*(.*)", rest)
    return found[1].strip() if found else ""


def _above(line: int, lines: list[str], top: int) -> str:
    """Return the comment on the lines directly above a line."""
    first = line
    while first > top and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.lstrip("# ").strip() for text in lines[first:line])
