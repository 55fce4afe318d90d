"""What conf/ holds: groups are its folders, options their files."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[3] / "conf"


def groups() -> list[str]:
    """The groups."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


SHARED = "_"  # files whose names begin so hold what options of a group have in common, and are no options


def files(group: str) -> list[str]:
    """Return the files of a group: its options, and what they share."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return [name for name in files(group) if not name.startswith(SHARED)]


def parents(group: str, option: str) -> list[str]:
    """The options of the group that an option starts from: a published size is its family's file with other settings."""
    return [name for name in content(group, option).get("defaults", []) if name in options(group)]


def settings(group: str, option: str) -> set[str]:
    """Return the keys of an option, with dots where they lie deeper, and those of the files that it starts from."""
    own = content(group, option)
    begun = [name for name in own.get("defaults", []) if name in files(group)]
    return (set(dotted(own)) - {"defaults"}).union(*(settings(group, name) for name in begun))


def defaults() -> dict[str, str]:
    """Return the option of each group that every command starts from."""
    entries = _read(CONF / "base.yaml")["defaults"]
    return {group: option for entry in entries if isinstance(entry, Mapping) for group, option in entry.items()}


def targets(group: str, option: str) -> list[str]:
    """Return what an option builds, by its ``_target_``: its own or that of the option that it starts from, and those of the options of
    the group that it is made of (``classifier_free@inner``); of a group of several things (callbacks) theirs."""
    content_of, entries = content(group, option), [str(entry) for entry in content(group, option).get("defaults", [])]
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
    """What an option's file says, as it stands there: nothing where there is no such file, or no mapping in it."""
    return _read(CONF / group / f"{option}.yaml")


def keys(command: str) -> list[str]:
    """Every key that some option of a command's configuration has, with dots, and every group."""
    places = [(CONF / f"{command}.yaml", ""), (CONF / "base.yaml", "")]
    places += [(CONF / group / f"{option}.yaml", f"{group}.") for group in groups() for option in files(group)]
    return groups() + [key for path, prefix in places for key in dotted(_read(path), prefix)]


def dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a mapping, each followed by those below it, with dots."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from dotted(value, f"{prefix}{key}.")


@functools.cache  # 65 ms of all files, which messages and checks look through several times
def _read(path: Path) -> Mapping[Any, Any]:
    import yaml  # here: tab completion should not wait for it

    if not path.is_file():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is some ten times faster, where it is there
    found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return found if isinstance(found, dict) else {}
