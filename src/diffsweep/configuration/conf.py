"""List what conf/ holds: groups are its folders, options their files."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONF = Path(__file__).resolve().parents[3] / "conf"


def groups() -> list[str]:
    """Return the groups in alphabetical order."""
    return list(_folders())


SHARED = (
    "_"  # the first letter of files that hold what options of a group have in common, and are no options themselves
)
DEFAULTS = "defaults"  # the key of a file that lists the files which it starts from


class About(NamedTuple):
    """What conf/_groups.yaml states of a group.

    Attributes:
        decides: a sentence on what the group decides.
        begin: the option to begin with.
    """

    decides: str
    begin: str


def about() -> dict[str, About]:
    """Return what each group decides, in the order in which one meets them."""
    return {group: About(**text) for group, text in _read(CONF / f"{SHARED}groups.yaml").items()}


def files(group: str) -> list[str]:
    """Return the files of a group: its options, and those that hold what options share."""
    return list(_stems(group))


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return [name for name in files(group) if not name.startswith(SHARED)]


def parents(group: str, option: str) -> list[str]:
    """Return the options of the group that an option starts from: a preset is another option with other settings."""
    return [name for name in content(group, option).get(DEFAULTS, []) if name in options(group)]


def settings(group: str, option: str) -> set[str]:
    """Return the keys of an option, with dots where they lie deeper, and those of the files that it starts from."""
    own = content(group, option)
    begun = [name for name in own.get(DEFAULTS, []) if name in files(group)]
    return (set(dotted(own)) - {DEFAULTS}).union(*(settings(group, name) for name in begun))


def defaults(command: str = "base") -> dict[str, str]:
    """Return the option of each group that a command starts from; by default those that all commands have in common."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(("base", command)):
        for entry in _read(CONF / f"{name}.yaml")[DEFAULTS]:
            if isinstance(entry, Mapping):
                found.update({group.removeprefix("override "): option for group, option in entry.items()})
    return {group: option for group, option in found.items() if group in groups()}


def targets(group: str, option: str) -> list[str]:
    """Return every ``_target_`` that an option builds.

    It is the option's own or that of the option that it starts from, with those of the options that it is made of
    (``classifier_free@inner``). Of a group of several things (callbacks) it is all of theirs.
    """
    content_of, entries = content(group, option), [str(entry) for entry in content(group, option).get(DEFAULTS, [])]
    own = [
        node["_target_"]
        for node in (content_of, content_of.get(group))
        if isinstance(node, Mapping) and "_target_" in node
    ]
    several = [node["_target_"] for node in content_of.values() if isinstance(node, Mapping) and "_target_" in node]
    inner = [entry for entry in entries if "@" in entry and not entry.startswith("/")]
    bases = (entry.removeprefix(f"/{group}/").partition("@")[0] for entry in (inner if own else entries))
    return (own or several) + [target for name in bases if name in options(group) for target in targets(group, name)]


def content(group: str, option: str) -> Mapping[Any, Any]:
    """Return the content of an option's file, uncomposed; empty if the file does not exist or holds no mapping."""
    return _read(CONF / group / f"{option}.yaml")


def keys(command: str) -> list[str]:
    """Return every key, with dots, that some option of a command's configuration has, and every group."""
    places = [(CONF / f"{command}.yaml", ""), (CONF / "base.yaml", "")]
    places += [(CONF / group / f"{option}.yaml", f"{group}.") for group in groups() for option in files(group)]
    return groups() + [key for path, prefix in places for key in dotted(_read(path), prefix)]


def dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a mapping, with dots, each followed by those in it."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from dotted(value, f"{prefix}{key}.")


@functools.cache
def _folders() -> tuple[str, ...]:
    """Return the names of the folders of conf/."""
    return tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir()))


@functools.cache
def _stems(group: str) -> tuple[str, ...]:
    """Return the names of the files of a group."""
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@functools.cache  # all files take 65 ms, and messages and checks read them several times
def _read(path: Path) -> Mapping[Any, Any]:
    import yaml  # here: tab completion should not wait for it

    if not path.is_file():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml is ten times faster, if installed
    found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return found if isinstance(found, dict) else {}
