"""Aspect-ratio buckets: sizes of about one area, to the nearest of which in aspect ratio each image is brought.

Training on squares alone crops heads and feet, which samples then lack too. With buckets an image of width w and height
h is scaled until it just covers the size (W_b, H_b) that minimises ``|log(w / h) - log(W_b / H_b)|``, and its centre is
cropped. A batch comes from one bucket (NovelAI 2022, github.com/NovelAI/novelai-aspect-ratio-bucketing; SDXL,
arXiv:2307.01952, appendix I, with multiples of 64).
"""

import contextlib
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.byte_images import ByteImages, identify
from diffsweep.datasets.decoding import PixelForm, decoded, encoded_rows
from diffsweep.datasets.images import UnreadableImageError, size_and_mode
from diffsweep.datasets.samples import Batch, Samples, rows_of
from diffsweep.datasets.tables import ImageTable
from diffsweep.files import make_once, write_atomically
from diffsweep.progress import ProgressMeter

BUCKET = "bucket"  # the column with the number of each sample's bucket


class BucketSize(NamedTuple):
    """The size in pixels of the images of a bucket.

    Attributes:
        height: H.
        width: W.
    """

    height: int
    width: int


def bucket_sizes(image_size: int, multiple: int, max_aspect_ratio: float) -> list[BucketSize]:
    """Return the sizes of all buckets, from the tallest to the widest, among them the square.

    For each width W, from the square's in steps of ``multiple``, the height is the largest multiple with which the size
    has at most ``image_size``^2 pixels. Of widths with the same height the largest is kept, which is nearest to that
    area. Each size is also taken with its sides exchanged.

    Args:
        image_size: the side of the square.
        multiple: what divides all sides; it must divide ``image_size``.
        max_aspect_ratio: the largest W / H, and H / W; at least 1.
    """
    wide: dict[int, int] = {}
    for width in range(image_size, int(image_size * math.sqrt(max_aspect_ratio)) + 1, multiple):
        height = image_size * image_size // width // multiple * multiple
        if height and width <= max_aspect_ratio * height:
            wide[height] = width  # of one height the last is kept
    sizes = {BucketSize(height, width) for height, width in wide.items()}
    return sorted(
        sizes | {BucketSize(width, height) for height, width in wide.items()}, key=lambda size: size[1] / size[0]
    )


def check_buckets(image_size: int, multiple: int, max_aspect_ratio: float) -> None:
    """Raise a ValueError unless the arguments give several sizes of buckets, see :func:`bucket_sizes`.

    Args:
        image_size: the side of the square, ``dataset.image_size``.
        multiple: what divides all sides, ``dataset.buckets``.
        max_aspect_ratio: the largest W / H, and H / W.
    """
    if multiple < 1 or image_size % multiple:
        raise ValueError(
            f"dataset.buckets={multiple} must divide dataset.image_size={image_size}: it divides all sides of buckets, "
            "and one of them is the square"
        )
    if not max_aspect_ratio >= 1:
        raise ValueError(f"dataset.max_aspect_ratio must be at least 1, not {max_aspect_ratio}")
    if len(bucket_sizes(image_size, multiple, max_aspect_ratio)) == 1:
        raise ValueError(
            f"dataset.buckets={multiple} gives no size but {image_size} x {image_size}; use a smaller multiple, or a "
            f"dataset.max_aspect_ratio above {max_aspect_ratio}"
        )


def nearest_bucket(sizes: Sequence[BucketSize], images: Tensor) -> Tensor:
    """Return the number of the bucket whose aspect ratio is nearest to that of each image in the logarithm, int64 (N,).

    Args:
        sizes: the sizes of the buckets.
        images: the widths and heights of the images, int64 (N, 2).
    """
    ratios = torch.tensor([size.width / size.height for size in sizes], dtype=torch.float64).log()
    width, height = images.to(torch.float64).T
    return ((width / height).log()[:, None] - ratios).abs().argmin(1)


class BucketedImages(Samples):
    """A table of samples in buckets, whose images have 8-bit pixels in a size for each bucket.

    A batch must have rows of one bucket. ``samples["bucket"]`` has the number of the bucket of each sample, by which
    :class:`~diffsweep.datasets.orders.BucketedBatches` chooses the rows of batches.

    Args:
        buckets: the images of each bucket, tables with the column ``x``.
        bucket: int64 (N,), the number of the bucket of each sample.
        place: int64 (N,), the row of each sample among the images of its bucket.
        parts: the annotations by name, such as ``label`` (N,), for all samples in their order.
    """

    def __init__(self, buckets: Sequence[Samples], bucket: Tensor, place: Tensor, parts: Mapping[str, Any]) -> None:
        self.buckets, self.bucket, self.place, self.parts = buckets, bucket, place, parts

    def __len__(self) -> int:
        return len(self.bucket)

    def part(self, name: str) -> Any:
        if name == "x":
            raise KeyError("x: the images have several sizes; take squares from the dataset's split()")
        return self.bucket if name == BUCKET else self.parts[name]

    def rows(self, index: Tensor) -> Batch:
        number = int(self.bucket[index[0]])
        if not torch.all(self.bucket[index] == number):
            raise ValueError("the rows of a batch must be of one bucket")
        return {"x": self.buckets[number].rows(self.place[index])["x"], **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return rows_of(self.parts, index)

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of the images of all buckets."""
        return sum(images.stored_bytes or 0 for images in self.buckets)

    def to(self, device: torch.device) -> Samples:
        return BucketedImages([images.to(device) for images in self.buckets], self.bucket, self.place, self.parts)


def bucketed(
    tables: Sequence[ImageTable],
    column: str,
    rows: Tensor,
    parts: Mapping[str, Any],
    form: PixelForm,
    sizes: Sequence[BucketSize],
    cache_dir: Path,
) -> BucketedImages:
    """Return readable images in the buckets of their aspect ratios; a line on stderr states how many each has.

    The images of each bucket are decoded once to a file of their own under ``cache_dir``, with a progress bar.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of images.
        rows: int64 (N,), the rows of the images in the order of the samples.
        parts: the annotations of the samples by name, in the same order.
        form: the form of the square images; those of a bucket differ in size alone.
        sizes: the sizes of the buckets.
        cache_dir: the folder in whose subfolder ``images`` decoded images and their original sizes are kept.

    Raises:
        ContentError: an image can no longer be read.
    """
    ascending, order = rows.sort()
    bucket = torch.empty_like(rows)
    bucket[order] = nearest_bucket(sizes, original_sizes(tables, column, ascending, cache_dir))
    place, buckets, words = torch.empty_like(rows), [], []
    used = bucket.unique().tolist()
    for number, size in enumerate(sizes[one] for one in used):
        inside = (bucket == used[number]).nonzero()[:, 0]
        of_bucket, among = rows[inside].sort()
        shape = form._replace(image_size=size.height, width=size.width)
        images, _ = decoded(tables, column, of_bucket, shape, 0, cache_dir)
        place[inside[among]] = torch.arange(len(inside))
        buckets.append(ByteImages(images, torch.arange(len(inside)), {}))
        words.append(f"{size.width} x {size.height}: {len(inside)}")
    print(f"images of each bucket, width x height: {', '.join(words)}", file=sys.stderr)
    return BucketedImages(buckets, torch.searchsorted(torch.tensor(used), bucket), place, parts)


def original_sizes(tables: Sequence[ImageTable], column: str, rows: Tensor, cache_dir: Path) -> Tensor:
    """Return the widths and heights of images before they are scaled, int64 (N, 2), as viewers show them.

    They are read from the heads of the files, once: they are kept in a file under ``cache_dir``. An image whose head
    cannot be read counts as square.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of images.
        rows: int64 (N,), ascending.
        cache_dir: the folder in whose subfolder ``images`` the file is kept.
    """
    settings = {
        "content": [table.content for table in tables],
        "column": column,
        "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
    }
    path = cache_dir / "images" / f"sizes-{identify(settings)}.npy"

    def read() -> np.ndarray:
        sizes = np.ones((len(rows), 2), np.int64)
        with ProgressMeter("sizes of images", len(rows), "image") as progress:
            for number, one in enumerate(encoded_rows(tables, column, rows)):
                content = one.content.read_bytes() if isinstance(one.content, Path) else one.content
                with contextlib.suppress(UnreadableImageError):
                    sizes[number] = size_and_mode(content or b"")[:2]
                progress.update()
        return sizes

    make_once(path, lambda: write_atomically(path, lambda file: np.save(file, read())))
    return torch.from_numpy(np.load(path, allow_pickle=False))
