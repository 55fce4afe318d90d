"""Text that a user can paste into a shell: paths, overrides that name a directory, and whole commands."""

import re
import shlex
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]  # where train.py and the other commands are
# Values that Hydra reads as text without quotes: no numbers, and no characters with a meaning in its grammar.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][a-z0-9_/.+-]*", re.IGNORECASE | re.ASCII)


def shown(path: str | Path) -> str:
    """Return a path as a user would type it: relative to the current folder if it is inside, quoted for the shell."""
    return shlex.quote(_relative(path))


def override(key: str, value: str) -> str:
    """Return the override ``key=value``, with the value quoted if Hydra's grammar would read another one otherwise."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={value if PLAIN.fullmatch(value) else QuotedString(value, Quote.double).with_quotes()}"


def typed(key: str, path: str | Path) -> str:
    """Return the override that gives a key a path, as a user would type it into a shell."""
    return shlex.quote(override(key, _relative(path)))


def command(beginning: str, path: str | Path) -> str:
    """Return the command that begins with a script and its overrides and ends with a path.

    Args:
        beginning: the script, its overrides, and the key that the path is for: ``train.py model=ldm autoencoder.run``.
        path: of a run.
    """
    script, *words, key = beginning.split()
    found = SCRIPTS / script
    return " ".join(["python", shown(found) if found.is_file() else f"src/{script}", *words, typed(key, path)])


def _relative(path: str | Path) -> str:
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
