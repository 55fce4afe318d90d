"""Find the word that is spelled most like a wrong one."""

import difflib
from collections.abc import Sequence


def nearest(word: str, words: Sequence[str], cutoff: float = 0.5) -> str:
    """Return ", did you mean X?" with the nearest of some words, or nothing where none is near."""
    found = closest(word, words, cutoff)
    return f", did you mean {found}?" if found else ""


def closest(word: str, words: Sequence[str], cutoff: float) -> str | None:
    """Return the word with the highest ratio of matching letters, above the cutoff, or one that contains this one."""
    containing = [longer for longer in words if len(word) > 2 and word in longer]
    return next(iter([*difflib.get_close_matches(word, words, n=1, cutoff=cutoff), *containing]), None)
