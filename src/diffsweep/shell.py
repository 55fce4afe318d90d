"""Text for a terminal: paths, overrides and commands that a user can paste into a shell, and foreign names."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]  # where train.py and the other commands are
# Values that Hydra reads as text without quotes: no numbers, and no characters with a meaning in its grammar.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][a-z0-9_/.+-]*", re.IGNORECASE | re.ASCII)


def one_line(text: str) -> str:
    """Return a text from a file in which control characters stand as escapes, such as ``\\x1b``, on one line.

    Names of classes, captions and files may hold the codes by which a program moves the cursor of a terminal, clears
    the screen or changes its title, and line ends that would forge a line of output.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shown(path: str | Path) -> str:
    """Return a path as a user would type it: relative to the current folder if it lies inside, quoted for the shell.

    A path with control characters is quoted as ``$'...'``, which bash and zsh read, so that it can be printed.
    """
    return quoted(_relative(path))


def quoted(word: str) -> str:
    """Return a word quoted for the shell; control characters stand as escapes in ``$'...'``."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{one_line(escaped)}'"


def override(key: str, value: str) -> str:
    """Return Hydra's override ``key=value``, with the value quoted if Hydra would read it as anything but that text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={value if PLAIN.fullmatch(value) else QuotedString(value, Quote.double).with_quotes()}"


def typed(key: str, path: str | Path) -> str:
    """Return the override ``key=path`` for a shell, quoted, with a path inside the current folder relative to it."""
    return quoted(override(key, _relative(path)))


def command(beginning: str, path: str | Path) -> str:
    """Return a command to copy into a shell: a Python script, its overrides, and last a key with a path as its value.

    An example is ``python src/sample.py run=outputs/a``, for the beginning ``sample.py run``.

    Args:
        beginning: the script, its overrides, and the key that gets the path, such as ``train.py model=ldm
            autoencoder.run``.
        path: the directory of a run.
    """
    script, *words, key = beginning.split()
    return " ".join([*_script(script), *words, typed(key, path)])


def sweep(name: str, words: Sequence[str]) -> str:
    """Return the command line of a sweep, to paste into a shell.

    Args:
        name: of the command, such as ``train``.
        words: its overrides.
    """
    return " ".join([*_script(f"{name}.py"), "-m", *map(quoted, words)])


def _script(name: str) -> tuple[str, str]:
    found = SCRIPTS / name
    return "python", shown(found) if found.is_file() else f"src/{name}"


def _relative(path: str | Path) -> str:
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
