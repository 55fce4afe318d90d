"""The words of captions, from which an encoder that is trained along makes its vocabulary."""

from collections.abc import Sequence
from typing import NamedTuple

from diffsweep.datasets.tables import ImageTable, captions_of
from diffsweep.files import ContentError
from diffsweep.words import words_of

MOST = 20_000  # words of a vocabulary whose embeddings can be learned along


class CaptionWords(NamedTuple):
    """What an encoder needs to know of captions.

    Attributes:
        vocabulary: all words, in lower case and alphabetical order.
        max_words: the number of words of the longest caption.
    """

    vocabulary: list[str]
    max_words: int


def words_of_captions(tables: Sequence[ImageTable], column: str) -> CaptionWords:
    """Return the words of all captions of a column in several tables.

    Raises:
        ContentError: a row has no caption, or the captions have more than 20,000 different words or none.
    """
    found: set[str] = set()
    longest = 0
    for table in tables:
        for caption in captions_of(table, column):
            words = words_of(caption)
            found.update(words)
            longest = max(longest, len(words))
    if not found or len(found) > MOST:
        raise ContentError(
            f"dataset.caption_column={column} has {len(found):,} different words, and conditioning=text learns 1 to "
            f"{MOST:,}; conditioning=text_clip reads any text"
        )
    return CaptionWords(sorted(found), longest)
