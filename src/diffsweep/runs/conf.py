"""What conf/ holds: groups are its folders, options their files."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[3] / "conf"


def groups() -> list[str]:
    """The groups."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
