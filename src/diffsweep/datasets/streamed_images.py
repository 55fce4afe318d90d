"""The base class of datasets of image files that are decoded once or, if ``dataset.streaming``, as they are needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsweep.datasets.byte_images import identify
from diffsweep.datasets.decoded_images import DecodedImages
from diffsweep.datasets.orders import Order
from diffsweep.datasets.samples import Mirrored, Samples, Split, rows_of
from diffsweep.datasets.stream_order import StreamedOrder, order_of_pieces
from diffsweep.datasets.streaming import StreamedColumns, StreamedRows
from diffsweep.datasets.tables import ImageTable


class StreamableImages(DecodedImages):
    """A base class for datasets of image files that can be too large to be decoded before training.

    Without ``streaming`` it is :class:`~diffsweep.datasets.decoded_images.DecodedImages`. With it, the images of each
    training batch are read and decoded when it is needed, best by ``num_workers`` processes, and none is kept;
    :mod:`~diffsweep.datasets.stream_order` describes their order. The same images are held out in every run: the first
    of a random order of all images, or of a random order of the files' pieces where these are read whole, such as the
    row groups of parquet files. Held-out images and the first ``num_reference`` training images of that order are
    decoded once, as without streaming: ``split("train")`` has those alone, so samples are compared with them, and
    statistics are taken over them.

    Args:
        streaming: whether training images are decoded as they are needed.
        shuffle_buffer: the number of samples that are shuffled together; each process holds as many images, encoded as
            in the files, and two pieces.
        num_reference: the number of training images that are decoded first; all, if they are fewer.
        vocabulary, max_words: all words of captions, and how many the longest has, for ``conditioning=text``; None if
            it is not chosen.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.decoded_images.DecodedImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    def __init__(
        self,
        streaming: bool = False,
        shuffle_buffer: int = 4096,
        num_reference: int = 10_000,
        vocabulary: Sequence[str] | None = None,
        max_words: int | None = None,
        **settings: Any,
    ) -> None:
        for key, count in (("shuffle_buffer", shuffle_buffer), ("num_reference", num_reference)):
            if count < 1:
                raise ValueError(f"dataset.{key} must be at least 1, not {count}")
        self.streaming, self.shuffle_buffer, self.num_reference = streaming, shuffle_buffer, num_reference
        self.vocabulary, self.max_words = vocabulary, max_words
        self._streamed: StreamedRows | None = None
        super().__init__(**settings)
        if streaming and (self.balance != "none" or self.buckets is not None):
            raise ValueError(
                "dataset.streaming=true reads images in the order of the files, so a batch is neither balanced nor of "
                "one bucket; use dataset.balance=none dataset.buckets=null, or dataset.streaming=false"
            )
        if streaming and self.changes_at_random:
            key = "crop=random" if self.crop == "random" else "dequantise=true"
            raise ValueError(
                f"dataset.{key} changes images that are decoded first; use dataset.streaming=false with it"
            )

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for equal data and different otherwise; streamed data have one of their own."""
        name = super().fingerprint
        return name if not self.streaming else f"{name}-streamed-{self.num_reference}"

    @property
    def streamed(self) -> StreamedRows:
        """Return the training samples, which are decoded at each request, in the order of the files."""
        if self._streamed is None:
            settings = [self.tables[0].content, self.image_column]
            listed = self.cache_dir / "streams" / f"{identify({'data': settings})}.jsonl"
            rows = self.order["train"].sort().values
            self._streamed = self._rows_of(self.tables[0], rows, listed)
        return self._streamed

    def _rows_of(self, table: ImageTable, rows: Tensor, listed: Path | None = None) -> StreamedRows:
        names = None
        if self.label_column is not None:
            names = self.class_names or table.class_names(self.label_column)
        columns = StreamedColumns(self.image_column, self.label_column, self.caption_column, self.num_classes, names)
        return StreamedRows(table, rows, columns, self.form, self.shuffle_buffer, self.max_bad, listed)

    @property
    def stores_images(self) -> bool:
        """Return whether training images are stored as batches have them: not streamed, and not cropped at random."""
        return not self.streaming and self.crop != "random"

    def loader_samples(self, split: Split) -> Samples:
        """Return the samples that the data loaders iterate over for a split.

        They are those of :meth:`~diffsweep.datasets.base.ImageData.loader_samples`, but of streamed data ``train`` has
        all training images.
        """
        if not self.streaming or split != "train" or split in self._replaced:
            return super().loader_samples(split)
        return Mirrored(self.streamed) if self.flip else self.streamed

    def training_order(self, samples: Samples) -> Order:
        """Return the order of the training samples; of streamed data one that is local in the files."""
        if not self.streaming:
            return super().training_order(samples)
        return StreamedOrder(self.streamed.ends, self.shuffle_buffer, self.seed, self.flip)

    def _fixed_order(self, table: ImageTable) -> Tensor:
        if self.streaming and not table.random_access:
            return order_of_pieces(table.piece_ends)
        return super()._fixed_order(table)

    def _class_ids(self) -> Tensor | None:
        return None if self.streaming else super()._class_ids()  # labels are read with the images

    def _decoded_order(self) -> dict[Split, Tensor]:
        if not self.streaming:
            return super()._decoded_order()
        train, val = self.order["train"][: self.num_reference], self.order["val"]
        return {"train": train, "val": val, "all": torch.cat([train, val])}

    def _annotations(self, rows: Tensor) -> dict[str, Any]:
        if not self.streaming:
            return super()._annotations(rows)
        parts: list[dict[str, Any]] = []
        first = before = 0
        places = torch.empty_like(rows)
        for table in self.tables:
            inside = ((rows >= first) & (rows < first + len(table))).nonzero().flatten()
            inside = inside[rows[inside].argsort()]  # each piece is read once
            places[inside] = torch.arange(len(inside)) + before
            before += len(inside)
            parts.append(self._rows_of(table, rows[inside] - first).annotations(torch.arange(len(inside))))
            first += len(table)
        joined = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        return rows_of(joined, places)


def _joined(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [one for part in parts for one in part]
