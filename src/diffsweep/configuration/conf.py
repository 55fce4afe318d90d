"""List what conf/ holds: groups are its folders, options their files."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONF = Path(__file__).resolve().parents[3] / "conf"
SHARED = "_"  # the first letter of files that hold what options have in common, and are no options themselves
DEFAULTS = "defaults"  # the key of a file that lists the files which it starts from
GOING_ON = ("run", "resume")  # keys that choose a run, whose options a command starts from and whose folder it uses
SELECTORS = (*GOING_ON, "from")  # and one whose options and weights a new run starts from


def groups() -> list[str]:
    """Return the configuration groups, which are the names of the folders of conf/, in alphabetical order."""
    return list(_folders())


class About(NamedTuple):
    """The description of a configuration group in conf/_groups.yaml.

    Attributes:
        decides: what the group decides, such as "The training loss."
        begin: the option, a file of the group's folder, that a beginner should choose.
    """

    decides: str
    begin: str


def about() -> dict[str, About]:
    """Return the description of each configuration group, in the order of conf/_groups.yaml: the method first."""
    return {group: About(**text) for group, text in _read(CONF / f"{SHARED}groups.yaml").items()}


def files(group: str) -> list[str]:
    """Return the names of the files of a configuration group in alphabetical order, without ``.yaml``.

    They are the options that a user can choose, and files that begin with ``_``, which hold what options share.
    """
    return list(_stems(group))


def options(group: str) -> list[str]:
    """Return the options of a configuration group: the names of the files in its folder that a user can choose."""
    return [name for name in files(group) if not name.startswith(SHARED)]


def parents(group: str, option: str) -> list[str]:
    """Return the other options of the group that an option starts from, by its defaults list.

    An option that starts from another is a preset of it, with other settings. Shared files (``_unet``), which are no
    options, are left out.
    """
    return [name for name in content(group, option).get(DEFAULTS, []) if name in options(group)]


def settings(group: str, option: str) -> set[str]:
    """Return the keys of an option, with dots (``encoder.width``), and those of the files that it starts from."""
    own = content(group, option)
    begun = [name for name in own.get(DEFAULTS, []) if name in files(group)]
    return (set(dotted(own)) - {DEFAULTS}).union(*(settings(group, name) for name in begun))


def defaults(command: str = "base") -> dict[str, str]:
    """Return the option that a command has in each configuration group if the user chooses none.

    Args:
        command: such as ``train``; ``base`` has the defaults that all commands have in common.

    Returns:
        the options by group; the value is None if no option of the group is chosen.
    """
    found: dict[str, str] = {}
    for name in starts(command):
        for entry in _read(CONF / f"{name}.yaml")[DEFAULTS]:
            if isinstance(entry, Mapping):
                found.update({group.removeprefix("override "): option for group, option in entry.items()})
    return {group: option for group, option in found.items() if group in groups()}


def starts(command: str) -> list[str]:
    """Return the files that a command's configuration starts from: ``base``, unless it builds nothing, and its own."""
    own = _read(CONF / f"{command}.yaml").get(DEFAULTS, [])
    return ["base"] * ("base" in own) + [command]


def targets(group: str, option: str) -> list[str]:
    """Return the full names of the classes (``_target_``) that an option of a group builds.

    It is the option's own class, or that of the option that it starts from, and then the classes of the options that it
    is made of (``classifier_free@inner``). An option of several things (``callbacks``) has the class of each.
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
    """Return the content of an option's file alone, without the files that it starts from.

    It is empty if the file does not exist or holds no mapping. The group "" has the files of conf/ itself (``train``).
    """
    return _read(CONF / group / f"{option}.yaml")


def is_global(group: str, option: str) -> bool:
    """Return whether an option's file sets keys of all groups (``# @package _global_``), not those of its own alone."""
    path = CONF / group / f"{option}.yaml"
    return path.is_file() and path.read_text(encoding="utf-8").startswith("# @package _global_")


def keys(command: str) -> list[str]:
    """Return every group, and every key, with dots, that a command's configuration has with any choice of options."""
    places = [(CONF / f"{name}.yaml", "") for name in reversed(starts(command))]
    places += [(CONF / group / f"{option}.yaml", f"{group}.") for group in groups() for option in files(group)]
    return groups() + [key for path, prefix in places for key in dotted(_read(path), prefix)]


def dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of nested mappings, with dots (``encoder``, ``encoder.width``); nothing for other values.

    Args:
        node: the content of a YAML file, or a value in it.
        prefix: put before each key.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from dotted(value, f"{prefix}{key}.")


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by key, with dots (``encoder.width``); a list is one value.

    Args:
        node: the content of a YAML file, or a configuration.
        prefix: put before each key.
    """
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def chosen_by(group: str, option: str) -> dict[str, Any]:
    """Return the options of other groups that an option chooses, with those of the options that it starts from.

    The group "" has the files of conf/ itself (``train``).
    """
    entries = content(group, option).get(DEFAULTS, [])
    found: dict[str, Any] = {}
    for begun in (entry for entry in entries if group and str(entry) in files(group)):
        found |= chosen_by(group, begun)
    for entry in (entry for entry in entries if isinstance(entry, Mapping)):
        found |= {str(key).removeprefix("override ").lstrip("/"): chosen for key, chosen in entry.items()}
    return found


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
    return read_yaml(path) if path.is_file() else {}


def read_yaml(path: Path) -> Mapping[Any, Any]:
    """Return the mapping that a YAML file holds, with interpolations as they are written; empty if it holds none.

    Raises:
        ValueError: the file is no YAML, as one that was cut short.
    """
    import yaml  # here: tab completion should not wait for it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml is ten times faster, if installed
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML") from error
    return found if isinstance(found, dict) else {}
