"""Pictures of images and clips: rows of images with names and labels, grids and strips."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from diffsweep.pictures.lettering import LINE_HEIGHT, width_of, wrapped, write
from diffsweep.pictures.pixels import to_uint8

MIN_SIDE = 64  # pixels; smaller images are enlarged to be visible
PAGE_SIDE = 2000  # pixels that the images of a row take at most, unless two take more
PAPER = 228  # the grey level between images and below text
GAP, MARGIN, NAME_GAP, GROUP_GAP = 2, 6, 8, 10  # pixels
NAME_WIDTH, TITLE_WIDTH = 110, 420  # pixels that a name takes at most, and a title where the images take less
LABEL_LINES = 5  # lines of a label at most


class Row(NamedTuple):
    """A row of images in a picture, from left to right, with a name at its left end and a label above each image.

    Attributes:
        images: the images in [-1, 1], (K, C, H, W) with C = 1 or 3.
        name: what the row shows, such as ``original``; empty for none.
        labels: a text for each image, such as its class; empty for none.
        apart: whether the row begins a new group of rows, with more room above it.
    """

    images: Tensor
    name: str = ""
    labels: Sequence[str] = ()
    apart: bool = False


def sheet(rows: Sequence[Row], title: str = "") -> Image.Image:
    """Draw rows of images below each other on light grey paper, with their names and labels, below a title.

    Images with a side below 64 pixels are enlarged by the least whole factor that makes both sides at least 64; each
    pixel becomes a square, and none is mixed with others. Gaps are 2 pixels wide. A text that does not fit is wrapped,
    and ends with an ellipsis after five lines. A picture without any text has no margin.

    Args:
        rows: the rows, at least one; their images have one size and as many channels. Shorter rows end with paper.
        title: a text above all rows; empty for none.
    """
    enlarge = enlargement(rows[0].images)
    height, width = (side * enlarge for side in rows[0].images.shape[-2:])
    columns = max(len(row.images) for row in rows)
    names = [wrapped(row.name, NAME_WIDTH, max(1, height // LINE_HEIGHT)) for row in rows]
    labels = [[wrapped(label, width, LABEL_LINES) for label in row.labels] for row in rows]
    left = max((width_of(line) for lines in names for line in lines), default=0)
    left += NAME_GAP if left else 0
    content = columns * (width + GAP) - GAP
    above = wrapped(title, max(left + content, TITLE_WIDTH), LABEL_LINES)
    margin = MARGIN if above or left or any(map(any, labels)) else 0
    bands = [LINE_HEIGHT * max(map(len, texts), default=0) for texts in labels]
    bands = [
        band + (GROUP_GAP if row.apart and i else 0) for i, (row, band) in enumerate(zip(rows, bands, strict=True))
    ]
    top = margin + (len(above) * LINE_HEIGHT + MARGIN if above else 0)
    size = (
        2 * margin + max(left + content, *map(width_of, above), 0),
        top + sum(bands) + len(rows) * (height + GAP) - GAP + margin,
    )
    grey = rows[0].images.shape[1] == 1
    picture = Image.new("L" if grey else "RGB", size, PAPER if grey else (PAPER,) * 3)
    write(picture, above, margin, margin)
    for row, name, texts, band in zip(rows, names, labels, bands, strict=True):
        top += band
        write(picture, name, margin, top + (height - len(name) * LINE_HEIGHT) // 2)
        for column, pixels in enumerate(to_uint8(row.images.float())):
            x = margin + left + column * (width + GAP)
            large = pixels.repeat(enlarge, 0).repeat(enlarge, 1)
            picture.paste(Image.fromarray(large[..., 0] if grey else large), (x, top))
            if texts:
                write(picture, texts[column], x + width // 2, top - LINE_HEIGHT * len(texts[column]) - 1, centred=True)
        top += height + GAP
    return picture


def enlargement(x: Tensor) -> int:
    """Return the least whole factor by which images (..., H, W) become at least 64 pixels high and wide."""
    return max(1, math.ceil(MIN_SIDE / min(x.shape[-2:])))


def columns_of(x: Tensor, most: int = 12) -> int:
    """Return how many images (..., H, W) a row of a picture has at most: ``most``, or fewer that fit in 2,000 pixels.

    The result is at least 2.
    """
    return max(2, min(most, PAGE_SIDE // (x.shape[-1] * enlargement(x))))


def grid(x: Tensor, columns: int | None = None, labels: Sequence[str] = (), title: str = "") -> Image.Image:
    """Draw images in [-1, 1], (N, C, H, W) with C = 1 or 3, row by row in a grid, each below its label.

    Images smaller than 64 pixels are enlarged: see :func:`sheet`.

    Args:
        x: the images.
        columns: the number of columns; None for a nearly square grid.
        labels: a text for each image; empty for none.
        title: a text above the grid; empty for none.
    """
    columns = columns if columns is not None else math.ceil(math.sqrt(len(x)))
    starts = range(0, len(x), columns)
    return sheet([Row(x[i : i + columns], labels=labels[i : i + columns]) for i in starts], title)


def rows(
    *images: Tensor, names: Sequence[str] = (), labels: Sequence[Sequence[str]] = (), title: str = ""
) -> Image.Image:
    """Draw several sets of images, each set as one row, so that the images of one number in the sets form a column.

    Where the images do not fit in a row (:func:`columns_of`), the next ones follow in as many rows below.

    Args:
        images: the sets, each (N, C, H, W) in [-1, 1] with the same N.
        names: a name for each set, such as ``original``; empty for none.
        labels: for each set the labels of its N images, or an empty sequence for none; fewer sequences than sets leave
            the last sets without labels.
        title: a text above the rows; empty for none.
    """
    columns = columns_of(images[0])
    found = []
    for i in range(0, len(images[0]), columns):
        for number, each in enumerate(images):
            texts = labels[number][i : i + columns] if number < len(labels) else ()
            found.append(Row(each[i : i + columns], names[number] if names else "", texts, apart=number == 0))
    return sheet(found, title)


def strips(
    *clips: Tensor, most: int = 8, names: Sequence[str] = (), labels: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Draw clips in [-1, 1], (N, C, F, H, W), each as a row of its F frames from left to right, numbered from 1.

    Clip i of every set is drawn before clip i + 1 of any, so that the rows of corresponding clips lie below each other.
    The frames of clips that do not fit in a row of 16 frames, or of 2,000 pixels, go on in the rows below.

    Args:
        clips: the sets, of equally many clips each.
        most: number of clips of each set that are drawn, the first ones.
        names: a name for each set; empty for none.
        labels: a text for each clip, such as its class, which is drawn with the names; empty for none.
        title: a text above the strips; empty for none.
    """
    columns = columns_of(clips[0], 16)
    found = []
    for i in range(min(most, len(clips[0]))):
        for f in range(0, clips[0].shape[2], columns):
            for number, each in enumerate(clips):
                frames = each[i].transpose(0, 1)[f : f + columns]
                texts = [str(f + k + 1) for k in range(len(frames))] if number == 0 else []
                words = [labels[i] if labels and number == 0 else "", names[number] if names else ""]
                found.append(Row(frames, ": ".join(filter(None, words)), texts, apart=f == number == 0))
    return sheet(found, title)


def beside(left: Image.Image, right: Image.Image, gap: int = 12) -> Image.Image:
    """Draw two pictures of the same height and mode side by side, with ``gap`` pixels of paper between them."""
    size = (left.width + gap + right.width, left.height)
    both = Image.new(left.mode, size, PAPER if left.mode == "L" else (PAPER,) * 3)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both
