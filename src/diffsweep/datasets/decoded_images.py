"""The base class of datasets of image files, which are decoded once into a mapped cache: splits, labels, captions."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffsweep.datasets.base import Balance, ImageData
from diffsweep.datasets.buckets import BUCKET, BucketSize, bucket_sizes, bucketed, check_buckets
from diffsweep.datasets.byte_images import LEVELS, ByteImages, fixed_order, identify
from diffsweep.datasets.classes import check_classes
from diffsweep.datasets.decoding import PixelForm, Unreadable, decoded
from diffsweep.datasets.facts import WITHOUT_DATA, facts_of
from diffsweep.datasets.images import BACKGROUND, MODES, colour
from diffsweep.datasets.orders import BucketedBatches, Order
from diffsweep.datasets.placement import OnDevice
from diffsweep.datasets.random_crops import CROPS, Crop, CroppedImages, whole_images
from diffsweep.datasets.samples import Samples, Split
from diffsweep.datasets.tables import NO_COLUMN, ImageTable, captions_of, class_ids, held_out
from diffsweep.files import ContentError


class DecodedImages(ImageData):
    """A base class for datasets of image files, with labels or captions, that are decoded once.

    The images are decoded once, with a progress bar, to 8-bit pixels in a file under ``cache_dir``, which later runs
    map into memory; its name is a hash of the content and settings. :func:`~diffsweep.datasets.images.decode` describes
    how an image is brought to the requested size. The first ``num_val`` images of a fixed permutation are held out, the
    same ones in every run.

    Subclasses set :attr:`tables` and :attr:`image_column` before they call this constructor.

    Attributes:
        tables: one table, of which ``num_val`` rows are held out, or two: for training, and for held-out images.
        image_column: the column of encoded images.

    Args:
        label_column: the column of labels: class ids from 0 to ``num_classes`` - 1, or names of classes; None for no
            labels.
        caption_column: the column of texts; None for no captions.
        channels: 1 (grey) or 3 (RGB); other images are converted.
        image_size: H and W; images of other sizes are scaled and cropped.
        num_classes: the number of classes; None without labels.
        class_names: the names of the classes, which must agree with those stored in the files; None for no names.
        levels: must be 256, since pixels are stored as bytes.
        num_val: number of held-out images; None for a tenth of them, at most 1,000, or of a table of held-out images
            its first 1,000.
        max_images: use only this many images of the training table, chosen by the fixed permutation; None for all.
        background: the colour behind transparent pixels: ``white``, ``black``, another name of HTML, or ``#rrggbb``.
            White by default, since most pictures with transparency are drawn for pages and shown on white.
        crop: ``centre``: the middle square of each image. ``random``: each training visit takes a random square of the
            image with its shorter side scaled to ``image_size``; held-out images, and training images with which
            samples are compared, keep the middle one. For this training images are decoded a second time, whole.
        max_bad: how many unreadable images are skipped; one more is an error.
        cache_dir: the folder in whose subfolder ``images`` decoded images are kept.
        buckets: None trains on squares. With an integer N, training images keep about their aspect ratio: each is
            scaled and cropped to one of several sizes of about ``image_size``^2 pixels, whose sides are multiples of N,
            and a batch has one size. Held-out images, and those that metrics compare with, are squares still.
        max_aspect_ratio: the largest W / H, and H / W, of these sizes.
        batch_size, num_workers, seed, flip, balance, on_device, dequantise: see
            :class:`~diffsweep.datasets.base.ImageData`. Set ``flip`` only where left and right do not matter.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    files: ClassVar[str]  # the name of the files in messages, such as "parquet files"
    kind: ClassVar[str]  # the first word of fingerprints
    path_key: ClassVar[str] = "path"  # the setting that names the data
    tables: list[ImageTable]
    image_column: str

    def __init__(
        self,
        label_column: str | None = None,
        caption_column: str | None = None,
        channels: int = 3,
        image_size: int = 32,
        num_classes: int | None = None,
        levels: int = LEVELS,
        class_names: Sequence[str] | None = None,
        num_val: int | None = None,
        max_images: int | None = None,
        background: str = BACKGROUND,
        crop: Crop = "centre",
        max_bad: int = 0,
        cache_dir: str = "outputs/cache",
        flip: bool = False,
        dequantise: bool = False,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        balance: Balance = "none",
        on_device: OnDevice = "auto",
        buckets: int | None = None,
        max_aspect_ratio: float = 2.0,
    ) -> None:
        sizes = (channels, image_size, num_classes, levels)
        super().__init__(*sizes, batch_size, num_workers, seed, flip, None, balance, on_device, dequantise)
        if channels not in MODES:
            raise ValueError(f"dataset.channels of {self.files} is 1 (grey) or 3 (RGB), not {channels}")
        if levels != LEVELS:
            raise ValueError(
                f"dataset.levels of {self.files} is {LEVELS}: images are held as bytes; it cannot be changed"
            )
        for key, count in (("image_size", image_size), ("num_val", num_val), ("max_images", max_images)):
            if count is not None and count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        if max_bad < 0:
            raise ValueError(f"dataset.max_bad must be at least 0, not {max_bad}")
        if crop not in CROPS:
            raise ValueError(f"dataset.crop is {' or '.join(CROPS)}, not {crop}")
        if buckets is not None:
            check_buckets(image_size, buckets, max_aspect_ratio)
            if balance != "none":
                raise ValueError("dataset.buckets needs dataset.balance=none: both choose what a batch has")
            if crop != "centre":
                raise ValueError("dataset.buckets needs dataset.crop=centre: images are cropped to their bucket")
            self.provides = frozenset({"aspect_ratios"})
        self.buckets, self.max_aspect_ratio = buckets, max_aspect_ratio
        colour(background)
        self.crop = crop
        self.label_column, self.caption_column = label_column, caption_column
        self.class_names, self.max_images = class_names, max_images
        self.background, self.max_bad, self.cache_dir = background, max_bad, Path(cache_dir)
        self.held_out = held_out(self.tables, max_images) if num_val is None else num_val
        self.order = self._order()
        for table in self.tables:
            table.check(self.image_column, label_column, caption_column)
            check_classes(table, label_column, num_classes, class_names)
        self._labels = self._class_ids()
        self._captions: list[str] | None = None  # those of all rows, once they were read
        self._images: tuple[Tensor, list[Unreadable]] | None = None
        self._changed: Samples | None = None

    @classmethod
    def found(cls, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return columns, classes, sizes and the number of held-out images where they are null, and a line about them.

        See :func:`~diffsweep.datasets.facts.facts_of`. If the data are missing, sizes are 3 channels and a side of 32,
        and the line is empty: the constructor states what is wrong.

        Raises:
            ContentError: the data exist and do not fit the settings, or hold something that cannot be read.
        """
        try:
            tables = cls.tables_of(settings)
        except ValueError:  # the constructor raises it again, where data are needed; a configuration can be shown
            without = {key: value for key, value in WITHOUT_DATA.items() if key in settings and settings[key] is None}
            none = [key for key in ("label_column", "caption_column") if settings.get(key) == NO_COLUMN]
            return {**without, **dict.fromkeys(none)}, ""
        values, text = facts_of(tables, settings, held_out(tables, settings.get("max_images")))
        return values, f"dataset.{cls.path_key}={settings[cls.path_key]}: {text}"

    @classmethod
    @abstractmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables that settings of a configuration describe; subclasses define it.

        Args:
            settings: the keyword arguments of the class.

        Raises:
            ValueError: the settings give no data, or data that cannot be read.
        """

    @property
    def bucket_sizes(self) -> list[BucketSize]:
        """Return the sizes of training images: those of all buckets, or the square alone."""
        if self.buckets is None:
            return [BucketSize(self.image_size, self.image_size)]
        return bucket_sizes(self.image_size, self.buckets, self.max_aspect_ratio)

    def training_order(self, samples: Samples) -> Order:
        """Return the order of the training samples: with buckets, each batch has images of one of them."""
        if self.buckets is None:
            return super().training_order(samples)
        return BucketedBatches(samples.part(BUCKET), self.batch_size, self.seed)

    def _order(self) -> dict[Split, Tensor]:
        """Return the rows of each split, counted through the tables of training and of held-out images."""
        every, held_out = len(self.tables[0]), self.held_out
        count = min(every, self.max_images or every)
        train = self._fixed_order(self.tables[0])[:count]
        if len(self.tables) == 2:
            of, count, val = "dataset.val_path", len(self.tables[1]), every + self._fixed_order(self.tables[1])
        else:
            of, val, train = "dataset.path", train, train[held_out:]
        if every < 2 and len(self.tables) == 1:
            raise ValueError("dataset.path has one image; at least two are needed, one of which is held out")
        if count < held_out or not len(train):
            raise ValueError(f"dataset.num_val={held_out} are held out of the {count} images of {of}; hold out fewer")
        val = val[:held_out]
        return {"train": train, "val": val, "all": torch.cat([train, val])}

    def _fixed_order(self, table: ImageTable) -> Tensor:
        """Return a random order of the rows of a table that is the same in every run."""
        return fixed_order(len(table))

    def _class_ids(self) -> Tensor | None:
        """Return the class ids of all rows, int64; None without labels."""
        if self.label_column is None or self.num_classes is None:
            return None
        names = self.class_names or self.tables[0].class_names(self.label_column)
        return class_ids(self.tables, self.label_column, self.num_classes, names)

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise.

        It has the number and size of the images, and a hash of the files and of all settings that change a split.
        """
        settings: dict[str, Any] = {
            "content": [table.content for table in self.tables],
            "columns": [self.image_column, self.label_column, self.caption_column],
            "channels": self.channels,
            "num_val": self.held_out,
            "max_images": self.max_images,
        }
        if self.background != BACKGROUND:
            settings["background"] = self.background
        if self.max_bad:
            settings["max_bad"] = self.max_bad
        return f"{self.kind}-{len(self.order['all'])}-{self.image_size}-{identify(settings)}"

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Return the images that could not be read, once a split is loaded: file and reason of each."""
        return [] if self._images is None else [(one.where, one.reason) for one in self._images[1]]

    def load(self, split: Split) -> Samples:
        """Return the samples of a split, whose images are decoded first if they are not in the cache.

        Images that cannot be read are left out, up to ``max_bad`` of them.

        Raises:
            ContentError: more images cannot be read, or a caption is missing; the message names the file and row.
        """
        order = self._decoded_order()
        used = order["all"].sort().values
        if self._images is None:
            self._annotations(used)  # a missing caption is an error before images are decoded
        if self._images is None:
            self._images = decoded(self.tables, self.image_column, used, self.form, self.max_bad, self.cache_dir)
        images, bad = self._images
        index = torch.searchsorted(used, order[split])
        index = index[~torch.isin(index, torch.tensor([one.place for one in bad], dtype=torch.int64))]
        if not len(index):
            raise ContentError(f"no image of the split {split} can be read, such as {bad[0].where} ({bad[0].reason})")
        return ByteImages(images, index, self._annotations(used[index]))

    @property
    def form(self) -> PixelForm:
        """Return the form to which images are decoded."""
        return PixelForm(self.channels, self.image_size, self.background)

    def _decoded_order(self) -> dict[Split, Tensor]:
        """Return the rows of each split that :meth:`load` decodes, here all."""
        return self.order

    def _annotations(self, rows: Tensor) -> dict[str, Any]:
        """Return the labels and captions of rows that are counted through all tables."""
        parts: dict[str, Any] = {}
        if self._labels is not None:
            parts["label"] = self._labels[rows]
        if self.caption_column is not None:
            if self._captions is None:
                self._captions = [text for table in self.tables for text in captions_of(table, self.caption_column)]
            parts["caption"] = [self._captions[row] for row in rows.tolist()]
        return parts

    def training_samples(self) -> Samples:
        """Return the training samples: those of the split, or of the same images random squares or sizes of buckets.

        Raises:
            ContentError: an image cannot be kept whole, since it is too long for its width; the message names it.
        """
        squares = self.split("train")
        if self.crop == "centre" and self.buckets is None:
            return squares
        if self._changed is None:
            assert isinstance(squares, ByteImages)
            rows = self.order["all"].sort().values[squares.index]
            data = (self.tables, self.image_column)
            if self.buckets is None:
                ascending, index = rows.sort()
                images = whole_images(*data, ascending, self.form, self.cache_dir)
                self._changed = CroppedImages(images, self.image_size, index.argsort(), squares.parts)
            else:
                self._changed = bucketed(*data, rows, squares.parts, self.form, self.bucket_sizes, self.cache_dir)
        return self._changed

    @property
    def changes_at_random(self) -> bool:
        """Return whether a training sample differs from visit to visit: by a random crop, or by dequantisation."""
        return self.crop == "random" or super().changes_at_random
