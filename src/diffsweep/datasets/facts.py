"""Find what a configuration leaves open about a dataset of image files: columns, classes, sizes, how many are held out.

Of 64 images the channels and sizes are read from the head of the file: all grey gives one channel, anything else three.
The side is the shortest side of these images, at most 64, rounded down to a multiple of 4, so that networks can halve
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diffsweep.datasets.caption_words import CaptionWords, words_of_captions
from diffsweep.datasets.images import UnreadableImageError, size_and_mode
from diffsweep.datasets.tables import NO_COLUMN, EncodedImage, ImageTable, labels_of, named_classes
from diffsweep.files import ContentError, read_bytes
from diffsweep.shell import one_line

LARGEST = 64  # the largest side that is chosen, for which a network trains in a bearable time
MULTIPLE = 4
WITHOUT_DATA = {
    "image_column": "image",
    "channels": 3,
    "image_size": 32,
}  # so that a configuration without a path has sizes, and is shown


def facts_of(tables: Sequence[ImageTable], settings: Mapping[str, Any], held_out: int) -> tuple[dict[str, Any], str]:
    """Return values for the settings that are null, and a line that states them.

    Args:
        tables: the tables of the dataset; the first one is looked at.
        settings: the keyword arguments of the dataset, with None for those that are to be found. ``none`` in place of
            a column means that no such column is used; its value becomes None.
        held_out: the number of held-out images if ``num_val`` is null.

    Raises:
        ContentError: no column holds images, a column that is typed does not exist, or no image that is looked at can
            be read.
    """
    table, words = tables[0], [f"{len(tables[0])} images"]
    values: dict[str, Any] = {}
    columns = table.columns()
    image = settings.get("image_column")
    if image is None:
        if not columns.images:
            raise ContentError(f"dataset.image_column: {table.place} has no column of encoded images")
        image = columns.images[0]
        if "image_column" in settings:
            values["image_column"] = image
            words[0] += f" in column {image}"
    label, caption = (
        _column(settings, "label_column", columns.labels),
        _column(settings, "caption_column", columns.captions),
    )
    table.check(image, label, caption)
    classes, text = _classes(table, label, settings)
    values.update(classes)
    words.append(text)
    if "caption_column" in settings:
        values["caption_column"] = caption
        words.append("no captions" if caption is None else f"captions of {caption}")
    if "vocabulary" in settings and settings["vocabulary"] is None:
        found = words_of_captions(tables, caption) if caption is not None else CaptionWords([], 1)
        values.update(found._asdict())
        if caption is not None:
            words.append(f"{len(found.vocabulary)} words, at most {found.max_words} in a caption")
    sizes, text = _sizes(table, image, settings)
    values.update(sizes)
    words.append(text)
    if settings.get("num_val") is None:
        values["num_val"] = held_out
        words.append(f"{held_out} held out" + (f" of {tables[1].place}" if len(tables) > 1 else ""))
    return values, ", ".join(words)


def _column(settings: Mapping[str, Any], key: str, found: Sequence[str]) -> str | None:
    """Return the column that is typed; if it is null the likeliest one, and None for ``none``."""
    typed: str | None = settings.get(key)
    if typed == NO_COLUMN:
        return None
    return typed if typed is not None else next(iter(found), None)


def _classes(table: ImageTable, label: str | None, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the settings of labels and classes, and words that state them."""
    nothing = {"label_column": None, "num_classes": None, "class_names": None}
    typed = settings.get("label_column")
    if label is None:
        return (nothing if typed == NO_COLUMN else {"label_column": None}), "no classes"
    count, names = settings.get("num_classes"), settings.get("class_names")
    stored = table.class_names(label)
    if count is None:
        count, found = (len(stored), stored) if stored is not None else named_classes(labels_of(table, label))
        if count < 2 and typed is None:
            one = f", such as {found[0]}" if found else ""
            return {"label_column": None}, f"no classes, since {label} has one alone{one}"
        names = names or found
    names = names or (stored if stored is not None and len(stored) == count else None)
    shown = "" if not names else f": {', '.join(map(_shown, names[:3]))}{', ...' if len(names) > 3 else ''}"
    found_now = {"label_column": label, "num_classes": count, "class_names": None if names is None else list(names)}
    return found_now, f"{count} classes of {label}{shown}"


def _shown(name: str) -> str:
    """Return the name of a class for a list of names: in quotes if it has a comma, and without control characters."""
    return one_line(f"'{name}'" if "," in name else name)


def _sizes(table: ImageTable, image: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the channels and the side of images, and words that state them."""
    channels, side = settings.get("channels"), settings.get("image_size")
    found, reason = [], ""
    for one in table.looked_at(image) if channels is None or side is None else ():
        try:
            found.append(size_and_mode(_content(one)))
        except (OSError, UnreadableImageError) as error:
            reason = reason or f"{one.where} has no readable image ({error})"
    if reason and not found:
        raise ContentError(f"{reason}, and no other that was looked at has")
    if channels is None:
        channels = 1 if all(grey for _, _, grey in found) else 3
    words = ""
    if side is None:
        shortest = min(min(width, height) for width, height, _ in found)
        side = max(MULTIPLE, min(shortest, LARGEST) // MULTIPLE * MULTIPLE)
        sizes = sorted({(width, height) for width, height, _ in found}, key=lambda size: size[0] * size[1])
        if sizes != [(side, side)]:
            (a, b), (c, d) = sizes[0], sizes[-1]
            words = f" (from {a} x {b}" + (f" to {c} x {d})" if len(sizes) > 1 else ")")
    text = f"{channels} x {side} x {side}{words}"
    return {"channels": channels, "image_size": side}, text


def _content(one: EncodedImage) -> bytes:
    content = one.content if isinstance(one.content, bytes | None) else read_bytes(one.content)
    return content or b""
