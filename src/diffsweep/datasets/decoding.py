"""Decode tables of encoded images once, to a file of 8-bit pixels that is mapped into memory; report bad images."""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.byte_images import identify
from diffsweep.datasets.images import BACKGROUND, Decoded, UnreadableImageError, decode
from diffsweep.datasets.tables import EncodedImage, ImageTable, where_of
from diffsweep.files import ContentError, make_once, read_bytes, write_atomically, write_text
from diffsweep.progress import ProgressMeter
from diffsweep.shell import one_line

AT_ONCE = 256  # images decoded before they are written together
IN_TASK = 16  # images that a thread decodes without waking the main one


class PixelForm(NamedTuple):
    """The form to which images are decoded.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        image_size: H, and W if ``width`` is None.
        background: the colour behind transparent pixels.
        width: W; None for a square.
        whole: whether images are kept whole: ``image_size`` is their shorter side, and nothing is cropped.
    """

    channels: int
    image_size: int
    background: str = BACKGROUND
    width: int | None = None
    whole: bool = False


class Unreadable(NamedTuple):
    """An image that could not be decoded.

    Attributes:
        place: its place among the rows that were decoded.
        where: its file, and its row if the file has several.
        reason: why it cannot be read.
    """

    place: int
    where: str
    reason: str


class Result(NamedTuple):
    """A decoded image, or the reason why it cannot be decoded.

    Attributes:
        where: its file, and its row if the file has several.
        image: the image; None if it cannot be decoded.
        reason: why it cannot be decoded; empty if it can.
        digest: the SHA-256 of the encoded image, 32 bytes; empty if it cannot be decoded.
    """

    where: str
    image: Decoded | None
    reason: str
    digest: bytes


def decoded(
    tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm, max_bad: int, cache_dir: Path
) -> tuple[Tensor, list[Unreadable]]:
    """Return the images of given rows, uint8 (N, C, H, W), mapped from a file, and those that cannot be read.

    The images are decoded by one process, with a progress bar, unless the file exists under ``cache_dir``; its name is
    a hash of all that it depends on. Beside it a JSON file lists unreadable images, in whose places the pixels are
    0, and images with the same content. A line on stderr states how many were skipped, and where they are listed.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of images.
        rows: int64 (N,), ascending.
        form: the form to which images are decoded.
        max_bad: how many images may be unreadable.
        cache_dir: the folder in whose subfolder ``images`` decoded images are kept.

    Raises:
        ContentError: more images than ``max_bad`` cannot be read, or none can; the message names the first.
    """
    import PIL

    settings = {
        "content": [table.content for table in tables],
        "column": column,
        "shape": [form.channels, form.image_size, *([] if form.width is None else [form.width])],
        "background": form.background,
        "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        "pillow": PIL.__version__,  # JPEG decoders of different versions may differ in a last bit
    }
    path = cache_dir / "images" / f"{identify(settings)}.npy"
    facts = path.with_suffix(".json")
    make_once(path, lambda: _make(path, facts, tables, column, rows, form, max_bad))
    bad = [Unreadable(*some) for some in json.loads(facts.read_text())["unreadable"]] if facts.is_file() else []
    if len(bad) > max_bad or len(bad) == len(rows):
        raise too_many(bad, max_bad, len(rows))
    if bad:
        text = (
            f"{len(bad)} of {len(rows)} images cannot be read and are skipped (dataset.max_bad={max_bad}), such as "
            f"{bad[0].where} ({bad[0].reason}); {facts} lists them"
        )
        print(one_line(text), file=sys.stderr)
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), bad


def _make(
    path: Path, facts: Path, tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm, max_bad: int
) -> None:
    """Decode the images of the given rows to one file, and write what was noticed about them to another."""
    bad: list[Unreadable] = []
    same: list[tuple[str, str]] = []

    def write(file: IO[bytes]) -> None:
        shape = (len(rows), form.channels, form.image_size, form.width or form.image_size)
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        nothing = np.zeros(shape[1:], np.uint8)
        enlarged, place = 0, 0
        seen: dict[bytes, int] = {}  # the first place of each content
        for some in results(tables, column, rows, form):
            for result in some:
                if result.image is None:
                    bad.append(Unreadable(place, result.where, result.reason))
                    if len(bad) > max_bad:
                        raise too_many(bad, max_bad, len(rows))
                elif (first := seen.setdefault(result.digest, place)) != place:
                    same.append((result.where, where_of(tables, int(rows[first]))))
                place += 1
            images = [result.image for result in some]
            file.write(np.stack([nothing if image is None else image.pixels for image in images]).tobytes())
            enlarged += sum(image is not None and image.enlarged for image in images)
        if enlarged and form.width is None:
            warnings.warn(
                f"{enlarged} of {len(rows)} images are smaller than dataset.image_size={form.image_size} "
                "and were enlarged",
                stacklevel=2,
            )
        write_text(facts, json.dumps({"unreadable": bad, "same": same}, indent=1))

    write_atomically(path, write)  # last: both files are whole once it exists
    if same and form.width is None:  # of buckets it is known from the squares
        text = (
            f"{len(same)} of {len(rows)} images have the content of others, such as {same[0][0]} and {same[0][1]}; "
            f"all are kept, and {facts} lists them"
        )
        print(one_line(text), file=sys.stderr)


def results(
    tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm, threads: int = 0, shown: bool = True
) -> Iterator[list[Result]]:
    """Yield the decoded images of given rows, in their order, in lists of up to 256.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of images.
        rows: int64 (N,), ascending.
        form: the form to which images are decoded.
        threads: threads that decode; 0 for one a core, at most 8.
        shown: whether progress is shown on stderr.
    """
    name = "images" if form.width is None else f"{form.width} x {form.image_size}"
    with (
        ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool,  # Pillow decodes without Python's lock
        ProgressMeter(f"decoding {name}", len(rows), "image", disable=not shown) as progress,
    ):
        encoded = encoded_rows(tables, column, rows)
        while some := list(islice(encoded, AT_ONCE)):
            parts = [some[first : first + IN_TASK] for first in range(0, len(some), IN_TASK)]
            yield list(chain.from_iterable(pool.map(lambda part: [_result(one, form) for one in part], parts)))
            progress.update(len(some))


def encoded_rows(tables: Sequence[ImageTable], column: str, rows: Tensor) -> Iterator[EncodedImage]:
    """Yield the encoded images of a column in the given rows, int64 (N,), ascending, counted through all tables."""
    wanted: list[int] = rows.tolist()
    first = 0
    for table in tables:
        yield from table.encoded(column, [row - first for row in wanted if first <= row < first + len(table)])
        first += len(table)


def _result(one: EncodedImage, form: PixelForm) -> Result:
    try:
        content: Any = read_bytes(one.content) if isinstance(one.content, Path) else one.content
        if content is None:
            return Result(one.where, None, "it is missing", b"")
        digest = hashlib.sha256(content).digest()
        return Result(one.where, decode(content, *form), "", digest)
    except UnreadableImageError as error:
        return Result(one.where, None, str(error), b"")
    except OSError as error:
        return Result(one.where, None, error.strerror or type(error).__name__, b"")


def too_many(bad: Sequence[Unreadable], max_bad: int, count: int) -> ContentError:
    """Return the error of more unreadable images than are skipped; its message names the first of them.

    Args:
        bad: the images that cannot be read, at least one.
        max_bad: how many may be unreadable.
        count: the number of all images.
    """
    first = f"{bad[0].where} has no readable image ({bad[0].reason})"
    if len(bad) == count:
        return ContentError(f"{first}, and none of the {count} images can be read")
    if max_bad:
        return ContentError(f"{first}, and more than dataset.max_bad={max_bad} images cannot be read")
    return ContentError(f"{first}; dataset.max_bad=N skips up to N such images")
