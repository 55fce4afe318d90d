"""Images that are stored whole, with their shorter side scaled, of which each training visit takes a random square.

Images of different aspect have different sizes, so they are stored one after the other in one file, and a table has the
height and width of each. Crops are taken when rows are read, so that the longer side is never lost.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.byte_images import LEVELS, identify
from diffsweep.datasets.decoding import PixelForm, results
from diffsweep.datasets.samples import Batch, Samples, rows_of
from diffsweep.datasets.tables import ImageTable
from diffsweep.diffusion import Noise, Stream
from diffsweep.files import ContentError, make_once, write_atomically

Crop = Literal["centre", "random"]
CROPS: tuple[Crop, ...] = ("centre", "random")
STEP = 1  # of the noise that places crops; step 0 of the stream is that of models' own augmentation


class WholeImages(NamedTuple):
    """Images of different sizes, whose shorter sides are equal, as 8-bit pixels one after the other.

    Attributes:
        pixels: uint8, (bytes of all,), each image in the order C, H, W; it may be mapped from a file.
        sizes: int64, (M, 2): height and width of each image.
        starts: int64, (M,): the first byte of each image.
        channels: C.
    """

    pixels: Tensor
    sizes: Tensor
    starts: Tensor
    channels: int

    def square(self, place: int, top: int, left: int, side: int) -> Tensor:
        """Return a square of an image, uint8 (C, side, side), as a view of its pixels.

        Args:
            place: the number of the image.
            top, left: the square's first row and column.
            side: its height and width in pixels.
        """
        (height, width), start = self.sizes[place].tolist(), int(self.starts[place])
        image = self.pixels[start : start + self.channels * height * width].view(self.channels, height, width)
        return image[:, top : top + side, left : left + side]


class CroppedImages(Samples):
    """A table of samples whose images are squares of larger ones: a random one at each training visit, or the centre.

    A visit at a position of the training run takes the square whose offsets are uniform on all whole numbers that leave
    it inside the image, drawn from (seed, position). So crops depend neither on batches nor on workers, and a resumed
    run takes the same ones. :meth:`rows`, which knows no position, takes the centre.

    Args:
        images: the whole images.
        side: H and W of the squares, at most the shorter side of each image.
        index: int64, (N,): sample n is image ``index[n]``.
        parts: the annotations by name, such as ``label`` (N,) or ``caption``, a list of N texts.
    """

    def __init__(self, images: WholeImages, side: int, index: Tensor, parts: Mapping[str, Any]) -> None:
        self.images, self.side, self.index, self.parts = images, side, index, parts

    def __len__(self) -> int:
        return len(self.index)

    def part(self, name: str) -> Any:
        return self.rows(torch.arange(len(self)))["x"] if name == "x" else self.parts[name]

    def rows(self, index: Tensor) -> Batch:
        return self._cropped(index, self._room(index) // 2)

    def visited(self, index: Tensor, noise: Noise) -> Batch:
        u = noise.at(STEP).uniform(2, stream=Stream.AUGMENTATION, dtype=torch.float64)  # (B, 2)
        return self._cropped(index, (u * (self._room(index) + 1)).long())

    def annotations(self, index: Tensor) -> Batch:
        return rows_of(self.parts, index)

    def _room(self, index: Tensor) -> Tensor:
        """Return how far the square of each image can be moved down and right, (B, 2)."""
        return self.images.sizes[self.index[index]] - self.side

    def _cropped(self, index: Tensor, offset: Tensor) -> Batch:
        places = zip(self.index[index].tolist(), offset.tolist(), strict=True)
        squares = torch.stack([self.images.square(place, top, left, self.side) for place, (top, left) in places])
        x = squares.to(torch.float32).div_((LEVELS - 1) / 2).sub_(1)
        return {"x": x, **self.annotations(index)}


def whole_images(
    tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm, cache_dir: Path
) -> WholeImages:
    """Return the images of given rows, scaled until their shorter side fits and not cropped, mapped from a file.

    One process decodes them, with a progress bar, unless the file exists under ``cache_dir``; its name is a hash of all
    that it depends on.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of images.
        rows: int64 (N,), ascending, of images that can be read.
        form: channels, the shorter side and the background.
        cache_dir: the folder in whose subfolder ``images`` decoded images are kept.

    Raises:
        ContentError: an image cannot be read, or would be too large with its shorter side scaled; the message names it.
    """
    import PIL

    form = form._replace(whole=True)
    settings = {
        "content": [table.content for table in tables],
        "column": column,
        "form": list(form),
        "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        "pillow": PIL.__version__,
    }
    path = cache_dir / "images" / f"{identify(settings)}.bytes"
    sizes_path = path.with_suffix(".sizes.npy")
    make_once(path, lambda: _make(path, sizes_path, tables, column, rows, form))
    try:
        sizes = torch.from_numpy(np.load(sizes_path, allow_pickle=False)).long()
    except (OSError, ValueError) as error:
        raise ContentError(f"{sizes_path} cannot be read; delete {path}, and both are made again") from error
    counts = (form.channels * sizes.prod(1)).tolist()
    if path.stat().st_size != sum(counts) or len(counts) != len(rows):
        raise ContentError(f"{path} is cut short; delete it, and it is made again")
    starts = torch.tensor([0, *accumulate(counts)][:-1], dtype=torch.int64)
    pixels = torch.from_numpy(np.asarray(np.memmap(path, np.uint8, "c")))
    return WholeImages(pixels, sizes, starts, form.channels)


def _make(
    path: Path, sizes_path: Path, tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm
) -> None:
    """Decode the images of the given rows to one file, and write their sizes to another."""
    sizes: list[tuple[int, int]] = []

    def write(file: IO[bytes]) -> None:
        for pixels in _decoded(tables, column, rows, form):
            sizes.append(pixels.shape[1:])
            file.write(pixels.tobytes())
        table = np.array(sizes, np.int32)
        write_atomically(sizes_path, lambda other: np.save(other, table))  # both are whole once the first exists

    write_atomically(path, write)


def _decoded(tables: Sequence[ImageTable], column: str, rows: Tensor, form: PixelForm) -> Iterator[np.ndarray]:
    for some in results(tables, column, rows, form):
        for result in some:
            if result.image is None:
                raise ContentError(
                    f"{result.where} cannot be kept for random crops ({result.reason}); use dataset.crop=centre"
                )
            yield result.image.pixels
