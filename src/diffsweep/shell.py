"""Text that a user can paste into a shell: paths, overrides that name a directory, and whole commands."""

import re
import shlex
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]  # where train.py and the other commands are
# Texts that Hydra's grammar reads as they are: no numbers, and none of the characters that mean something in it.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][a-z0-9_/.+-]*", re.IGNORECASE | re.ASCII)


def shown(path: str | Path) -> str:
    """Return a path as a user would type it: relative to where they are if it lies below, and quoted for the shell."""
    return shlex.quote(_relative(path))


def override(key: str, value: str) -> str:
    """Return the override ``key=value``, its value quoted where Hydra's grammar would otherwise read another one."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={value if PLAIN.fullmatch(value) else QuotedString(value, Quote.double).with_quotes()}"


def typed(key: str, path: str | Path) -> str:
    """Return the override that gives a key a path, as a user would type it into a shell."""
    return shlex.quote(override(key, _relative(path)))


def command(beginning: str, path: str | Path) -> str:
    """Return the command that begins with a script and ends with a path, such as ``sample.py run`` and the directory of a run.

    Args:
        beginning: the script, its overrides if any, and the key that the path is for.
        path: of a run.
    """
    script, *words, key = beginning.split()
    found = SCRIPTS / script
    return " ".join(["python", shown(found) if found.is_file() else f"src/{script}", *words, typed(key, path)])


def _relative(path: str | Path) -> str:
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
