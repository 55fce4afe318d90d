"""Text on pictures: wrapped to a width in pixels, cut with an ellipsis where it does not fit, and drawn."""

import functools
from unicodedata import combining, normalize

from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 12
LINE_HEIGHT = 14  # pixels from one line of text to the next
BASELINE = 11  # pixels from the top of a line to the foot of its letters, above those that reach below
INK = 20  # the grey level of text
ELLIPSIS = "\u2026"


@functools.cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of labels, which comes with Pillow, so that pictures are the same on all machines."""
    return ImageFont.load_default(size=FONT_SIZE)


@functools.lru_cache(maxsize=4096)
def width_of(text: str) -> int:
    """Return the width of a line of text in pixels, rounded up."""
    return int(-(-font().getlength(text) // 1))


@functools.lru_cache(maxsize=4096)
def wrapped(text: str, width: int, most: int) -> tuple[str, ...]:
    """Return the lines of a text that is wrapped between words, so that each line is at most ``width`` pixels wide.

    A word that is too wide for a line, and the last line of a text that has more than ``most`` lines, end with an
    ellipsis. White space between words becomes one blank; a text without words has no lines.

    Args:
        text: the text.
        width: the largest width of a line in pixels.
        most: the largest number of lines, at least 1.
    """
    lines: list[str] = []
    words = legible(text).split()
    for i, word in enumerate(words):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined) <= width:
            lines[-1] = joined
        elif len(lines) < most:
            lines.append(word if width_of(word) <= width else _cut(word, width))
        else:
            lines[-1] = _cut(" ".join([lines[-1], *words[i:]]), width)
            break
    return tuple(lines)


def legible(text: str) -> str:
    """Return a text without the accents of letters, which the font of labels has not: ``e`` for an accented one."""
    if text.isascii():
        return text
    kept = (part for letter in text for part in (letter if letter == ELLIPSIS else normalize("NFKD", letter)))
    return "".join(part for part in kept if not combining(part))


def _cut(text: str, width: int) -> str:
    """Return the longest beginning of a text that is at most ``width`` pixels wide with an ellipsis after it."""
    text = text[: max(1, width)]  # no character that shows is narrower than a pixel
    while text and width_of(text.rstrip() + ELLIPSIS) > width:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


@functools.lru_cache(maxsize=4096)
def _drawn(line: str) -> Image.Image:
    """Return a line of text as a picture of how much ink each pixel has, so that pages draw equal labels once."""
    mask = Image.new("L", (width_of(line), LINE_HEIGHT))
    ImageDraw.Draw(mask).text((0, BASELINE), line, fill=255, font=font(), anchor="ls")
    return mask


def write(picture: Image.Image, lines: tuple[str, ...], x: int, y: int, centred: bool = False) -> None:
    """Write lines of text below each other on a picture.

    Args:
        picture: the picture, of mode ``L`` or ``RGB``.
        lines: the lines.
        x: the left end of the lines in pixels, or their middle if they are centred.
        y: the top of the first line in pixels; each line takes ``LINE_HEIGHT``.
        centred: whether the lines are centred at ``x``.
    """
    ink = INK if picture.mode == "L" else (INK,) * 3
    for i, line in enumerate(lines):
        left = x - width_of(line) // 2 if centred else x
        picture.paste(ink, (left, y + i * LINE_HEIGHT), _drawn(line))
