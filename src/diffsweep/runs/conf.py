"""What conf/ holds: groups are its folders, options their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[3] / "conf"


def groups() -> list[str]:
    """The groups."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def parents(group: str, option: str) -> list[str]:
    """The options of the group that an option starts from: a published size is its family's file with other settings."""
    return [name for name in _content(group, option).get("defaults", []) if name in options(group)]


def settings(group: str, option: str) -> set[str]:
    """The keys of an option, with those of the options that it starts from."""
    own = set(map(str, _content(group, option))) - {"defaults"}
    return own.union(*(settings(group, name) for name in parents(group, option)))


def _content(group: str, option: str) -> Mapping[Any, Any]:
    import yaml  # here: tab completion should not wait for it

    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
