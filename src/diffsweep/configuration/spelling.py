"""Find the word that is spelled most like a wrong one."""

import difflib
from collections.abc import Sequence


def nearest(word: str, words: Sequence[str], cutoff: float = 0.5) -> str:
    """Return ", did you mean X?" with the word X that is spelled most like a wrong one, or "" if none is near.

    Args:
        word: the wrong word.
        words: the right words.
        cutoff: the least ratio of matching letters, in [0, 1], at which a word is near; one that contains ``word`` is
            too.
    """
    found = closest(word, words, cutoff)
    return f", did you mean {found}?" if found else ""


def closest(word: str, words: Sequence[str], cutoff: float) -> str | None:
    """Return the word with the highest ratio of matching letters, if it is at least ``cutoff``.

    Otherwise return the first word that contains ``word``, if ``word`` has three letters or more, or else None.

    Args:
        word: the wrong word.
        words: the right words.
        cutoff: a ratio in [0, 1].
    """
    containing = [longer for longer in words if len(word) > 2 and word in longer]
    return next(iter([*difflib.get_close_matches(word, words, n=1, cutoff=cutoff), *containing]), None)
