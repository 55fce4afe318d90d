"""A dataset of images in local parquet files, such as the Hugging Face hub's, decoded once into a mapped cache."""

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.base import ImageData
from diffsweep.datasets.byte_images import LEVELS, ByteImages, fixed_order, identify
from diffsweep.datasets.images import MODES, Decoded, UnreadableImageError, decode
from diffsweep.datasets.parquet_files import ParquetFiles
from diffsweep.datasets.samples import Samples, Split
from diffsweep.files import ContentError, make_once, write_atomically
from diffsweep.progress import ProgressMeter

AT_ONCE = 256  # images decoded before they are written together


class Parquet(ImageData):
    """A dataset of images in local parquet files, one in each row, with labels or captions in other columns.

    The images are decoded once, with a progress bar, to 8-bit pixels in a file under ``cache_dir``, which later runs
    map into memory; its name is a hash of the content and settings. :func:`~diffsweep.datasets.images.decode` describes
    how an image is brought to the requested size. The first ``num_val`` images of a fixed permutation are held out, the
    same ones in every run. Files are read through Hugging Face ``datasets``.

    Args:
        path: a parquet file, a folder of them, or a glob.
        val_path: files from which images are held out, instead of from ``path``, which is then for training alone.
        image_column: the column of encoded images, as bytes or in the form of the Hugging Face hub.
        label_column: the column of integer labels from 0 to ``num_classes`` - 1; None for no labels.
        caption_column: the column of texts; None for no captions.
        channels: 1 (grey) or 3 (RGB); other images are converted.
        image_size: H and W; images of other sizes are scaled and cropped.
        num_classes: the number of classes; None without labels.
        class_names: the names of the classes, which must agree with those stored in the files; None for no names.
        levels: must be 256, since pixels are stored as bytes.
        num_val: number of held-out images.
        max_images: use only this many images of ``path``, chosen by the fixed permutation; None for all.
        cache_dir: the folder in whose subfolder ``images`` decoded images are kept.
        batch_size, num_workers, seed, flip: see :class:`~diffsweep.datasets.base.ImageData`. Set ``flip`` only where
            left and right do not matter to images and captions.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    def __init__(
        self,
        path: str | None,
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: str | None = None,
        channels: int = 3,
        image_size: int = 32,
        num_classes: int | None = None,
        levels: int = LEVELS,
        class_names: Sequence[str] | None = None,
        val_path: str | None = None,
        num_val: int = 1000,
        max_images: int | None = None,
        cache_dir: str = "outputs/cache",
        flip: bool = False,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(channels, image_size, num_classes, levels, batch_size, num_workers, seed, flip)
        if path is None:
            raise ValueError(
                "dataset.path is missing: give a parquet file of images, a folder of them or a glob, as in "
                "dataset.path=train.parquet"
            )
        if absent := [name for name in ("datasets", "pyarrow") if importlib.util.find_spec(name) is None]:
            raise ValueError(f"parquet files need {' and '.join(absent)}; pip install 'diffsweep[data]'")
        if channels not in MODES:
            raise ValueError(f"dataset.channels of parquet files is 1 (grey) or 3 (RGB), not {channels}")
        if levels != LEVELS:
            raise ValueError(
                f"dataset.levels of parquet files is {LEVELS}: images are held as bytes; it cannot be changed"
            )
        for key, count in (("image_size", image_size), ("num_val", num_val), ("max_images", max_images)):
            if count is not None and count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        self.image_column, self.label_column, self.caption_column = image_column, label_column, caption_column
        self.class_names, self.held_out, self.max_images = class_names, num_val, max_images
        self.cache_dir = Path(cache_dir)
        self.tables = [ParquetFiles("dataset.path", path)]
        if val_path is not None:
            self.tables.append(ParquetFiles("dataset.val_path", val_path))
        self.order = self._order()
        for table in self.tables:
            self._check(table)
        self._labels = None if label_column is None else torch.cat([self._labels_of(table) for table in self.tables])

    def _order(self) -> dict[Split, Tensor]:
        """Return the rows of each split, counted through the files of ``path`` and then those of ``val_path``."""
        every, held_out = len(self.tables[0]), self.held_out
        count = min(every, self.max_images or every)
        train = fixed_order(every)[:count]
        if len(self.tables) == 2:
            of, count, val = "dataset.val_path", len(self.tables[1]), every + fixed_order(len(self.tables[1]))
        else:
            of, val, train = "dataset.path", train, train[held_out:]
        if count < held_out or not len(train):
            raise ValueError(f"dataset.num_val={held_out} are held out of the {count} images of {of}; hold out fewer")
        val = val[:held_out]
        return {"train": train, "val": val, "all": torch.cat([train, val])}

    def _check(self, table: ParquetFiles) -> None:
        """Raise an error unless the columns exist, have the right types and agree with the settings of classes."""
        from pyarrow import types

        kind = table.type_of("dataset.image_column", self.image_column)
        fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {"bytes": kind}
        if not any(
            holds(fields.get("bytes")) for holds in (types.is_binary, types.is_large_binary) if "bytes" in fields
        ):
            raise ContentError(
                f"dataset.image_column={self.image_column}: the column holds {kind}, not encoded images; "
                f"{table.files[0]} has the columns {table.names}"
            )
        if self.caption_column is not None:
            kind = table.type_of("dataset.caption_column", self.caption_column)
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise ContentError(f"dataset.caption_column={self.caption_column}: the column holds {kind}, not texts")
        self._check_classes(table)

    def _check_classes(self, table: ParquetFiles) -> None:
        from pyarrow import types

        if self.label_column is None:
            if self.num_classes is not None or self.class_names is not None:
                raise ValueError(
                    "dataset.label_column=null has no classes: set dataset.num_classes=null, dataset.class_names=null"
                    f", or dataset.label_column= to one of the columns {table.names}"
                )
            return
        kind = table.type_of("dataset.label_column", self.label_column)
        if not types.is_integer(kind):
            raise ContentError(f"dataset.label_column={self.label_column}: the column holds {kind}, not integers")
        names = table.class_names(self.label_column)
        stored = "" if names is None else f"; {table.files[0]} has {len(names)}: {', '.join(names)}"
        if self.num_classes is None or self.num_classes < 1:
            raise ValueError(f"dataset.num_classes={_null(self.num_classes)} is not the number of classes{stored}")
        if names is not None and len(names) != self.num_classes:
            raise ContentError(f"dataset.num_classes={self.num_classes} is not the number of classes{stored}")
        if self.class_names is not None:
            if names is not None and list(self.class_names) != names:
                raise ContentError(
                    f"dataset.class_names=[{', '.join(self.class_names)}] are not those of the file{stored}"
                )
            if len(self.class_names) != self.num_classes:
                raise ValueError(
                    f"dataset.class_names has {len(self.class_names)} names for {self.num_classes} classes"
                )

    def _labels_of(self, table: ParquetFiles) -> Tensor:
        labels = table.column(str(self.label_column))
        for row, label in enumerate(labels):
            if label is None or not 0 <= label < (self.num_classes or 0):
                raise ContentError(
                    f"dataset.num_classes={self.num_classes}: labels must be 0 to {(self.num_classes or 0) - 1}, "
                    f"but {table.where(row)} has {_null(label)}"
                )
        return torch.tensor(labels, dtype=torch.int64)

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise.

        It has the number and size of the images, and a hash of the files and of all settings that change a split.
        """
        settings = {
            "content": [table.content for table in self.tables],
            "columns": [self.image_column, self.label_column, self.caption_column],
            "channels": self.channels,
            "num_val": self.held_out,
            "max_images": self.max_images,
        }
        return f"parquet-{len(self.order['all'])}-{self.image_size}-{identify(settings)}"

    def load(self, split: Split) -> Samples:
        """Return the samples of a split, whose images are decoded first if they are not in the cache.

        Raises:
            ContentError: an image cannot be read, or a caption is missing; the message names the file and row.
        """
        rows = self.order[split]
        parts: dict[str, Any] = {}
        if self._labels is not None:
            parts["label"] = self._labels[rows]
        if self.caption_column is not None:
            captions = [caption for table in self.tables for caption in self._captions_of(table)]
            parts["caption"] = [captions[row] for row in rows.tolist()]
        used = self.order["all"].sort().values
        return ByteImages(self._images(used), torch.searchsorted(used, rows), parts)

    def _captions_of(self, table: ParquetFiles) -> list[str]:
        captions = table.column(str(self.caption_column))
        if None in captions:
            where = table.where(captions.index(None))
            raise ContentError(f"dataset.caption_column={self.caption_column}: {where} has no caption")
        return captions

    def _images(self, used: Tensor) -> Tensor:
        """Return the images of the given rows, in order, mapped from the cache; if they are not in it, decode them."""
        import PIL

        settings = {
            "content": [table.content for table in self.tables],
            "column": self.image_column,
            "shape": [self.channels, self.image_size],
            "rows": hashlib.sha256(used.numpy().tobytes()).hexdigest(),
            "pillow": PIL.__version__,  # JPEG decoders of different versions may differ in a last bit
        }
        path = self.cache_dir / "images" / f"{identify(settings)}.npy"
        make_once(path, lambda: write_atomically(path, lambda file: self._decode(file, used)))
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    def _decode(self, file: IO[bytes], used: Tensor) -> None:
        """Decode the images of the given rows and write them as an ``.npy`` file."""
        shape = (len(used), self.channels, self.image_size, self.image_size)
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        enlarged = 0
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # Pillow releases Python's lock while it decodes
            ProgressMeter("decoding images", len(used), "image") as progress,
        ):
            contents = self._contents(used)
            while some := list(islice(contents, AT_ONCE)):
                decoded = list(pool.map(self._decoded, some))
                file.write(np.stack([image.pixels for image in decoded]).tobytes())
                enlarged += sum(image.enlarged for image in decoded)
                progress.update(len(some))
        if enlarged:
            warnings.warn(
                f"{enlarged} of {len(used)} images are smaller than dataset.image_size={self.image_size} "
                "and were enlarged",
                stacklevel=2,
            )

    def _contents(self, used: Tensor) -> Iterator[tuple[str, Any]]:
        """Yield the encoded images of the given rows, in order, each with its file and row as text for messages."""
        wanted, first = used.tolist(), 0
        for table in self.tables:
            mine = {row - first for row in wanted if first <= row < first + len(table)}
            last = max(mine, default=-1)
            for row, content in enumerate(islice(table.contents(self.image_column), last + 1)):
                if row in mine:
                    yield table.where(row), content
            first += len(table)

    def _decoded(self, row: tuple[str, Any]) -> Decoded:
        where, content = row
        content = content.get("bytes") if isinstance(content, dict) else content
        if content is None:
            raise ContentError(f"{where}: column {self.image_column} has no image")
        try:
            return decode(content, self.channels, self.image_size)
        except UnreadableImageError as error:
            raise ContentError(f"{where}: column {self.image_column} has no readable image ({error})") from error


def _null(value: int | None) -> str:
    return "null" if value is None else str(value)
