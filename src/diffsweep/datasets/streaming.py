"""Samples of image files that are decoded when they are requested, so that no more than a few pieces are in memory."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from diffsweep.datasets.byte_images import LEVELS
from diffsweep.datasets.decoding import PixelForm, Unreadable, too_many
from diffsweep.datasets.images import UnreadableImageError, decode
from diffsweep.datasets.samples import Batch, Samples
from diffsweep.datasets.tables import ImageTable, class_id
from diffsweep.errors import line_of
from diffsweep.files import ContentError


class StreamedColumns(NamedTuple):
    """The columns of a table that is streamed.

    Attributes:
        image: the column of encoded images.
        label, caption: the columns of labels and of texts; None for none.
        num_classes: the number of classes; None without labels.
        class_names: the names of the classes in the order of their ids; None for none.
    """

    image: str
    label: str | None
    caption: str | None
    num_classes: int | None
    class_names: Sequence[str] | None


class StreamedRows(Samples):
    """A table of samples that are read from files and decoded at each request, in [-1, 1].

    Files are read in pieces, such as the row groups of parquet files, which are kept, encoded, as long as a window of
    the training order needs them: each process holds ``window`` rows and two pieces. Only requested images are decoded:
    in the threads of the training process, or in the one of a worker.

    An image that cannot be read is listed in a file, and the next one that can takes its place in every epoch, until
    more than ``max_bad`` are listed. All processes share the file, and resumed runs read it.

    Attributes:
        threads: the threads that decode; 0, the default, for one in a worker, else for one a core, at most 8.

    Args:
        table: the files.
        rows: int64 (N,), ascending: sample n is row ``rows[n]`` of the table.
        columns: the columns that are read.
        form: the form to which images are decoded.
        window: the number of samples that the training order permutes together.
        max_bad: how many images may be unreadable.
        listed: the file that lists those, a JSON list of row, place and reason in each line; None for none.

    Raises:
        ContentError: the file lists more than ``max_bad`` images already.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: Tensor,
        columns: StreamedColumns,
        form: PixelForm,
        window: int,
        max_bad: int,
        listed: Path | None = None,
    ) -> None:
        self.table, self.numbers, self.columns, self.form = table, rows, columns, form
        self.window, self.max_bad, self.listed = window, max_bad, listed
        self.ids = {name: number for number, name in enumerate(columns.class_names or ())}
        self.table_ends = torch.tensor(table.piece_ends)
        sizes = self.table_ends.diff(prepend=self.table_ends.new_zeros(1))
        self.most = window + 2 * int(sizes.max())  # rows that a process holds
        self.threads = 0
        self._pieces: dict[int, tuple[int, Mapping[str, Sequence[Any]]]] = {}  # the latest last
        self._bad = self._read_list()
        if len(self._bad) > max_bad:
            raise too_many(list(self._bad.values()), max_bad, len(self))

    @property
    def ends(self) -> list[int]:
        """Return for each piece with samples the number of samples up to its end, as the training order needs them."""
        ends: list[int] = torch.searchsorted(self.numbers, self.table_ends).unique().tolist()
        return [end for end in ends if end]

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, name: str) -> Any:
        every = torch.arange(len(self))
        return self.rows(every)["x"] if name == "x" else self.annotations(every)[name]

    def rows(self, index: Tensor) -> Batch:
        numbers = [self._sound(number) for number in index.tolist()]
        read = [self._cell(number) for number in numbers]  # in one thread, since pieces are shared
        every = self.threads or (1 if get_worker_info() is not None else min(8, os.cpu_count() or 1))
        threads = min(every, len(read))
        if threads > 1:  # Pillow decodes without Python's lock
            with ThreadPoolExecutor(threads) as pool:
                decoded = list(pool.map(self._decoded, read))
        else:
            decoded = [self._decoded(content) for content in read]
        images = []
        for place, one in enumerate(decoded):
            while isinstance(one, str):
                self._skip(numbers[place], one)
                numbers[place] = self._sound(numbers[place])
                one = self._decoded(self._cell(numbers[place]))
            images.append(one)
        x = torch.from_numpy(np.stack(images)).to(torch.float32).div_((LEVELS - 1) / 2).sub_(1)
        return {"x": x, **self._annotations(numbers)}

    def annotations(self, index: Tensor) -> Batch:
        """Return the labels and captions of the samples that an int64 index (B,) selects; no image is decoded."""
        return self._annotations([self._sound(number) for number in index.tolist()])

    def _annotations(self, numbers: Sequence[int]) -> Batch:
        batch: Batch = {}
        label, caption, count = self.columns.label, self.columns.caption, self.columns.num_classes
        if label is not None and count is not None:
            found = [(self._row(number), self._value(number, label)) for number in numbers]
            batch["label"] = torch.tensor([class_id(self.table, *one, count, self.ids) for one in found])
        if caption is not None:
            batch["caption"] = [self._value(number, caption) for number in numbers]
            if None in batch["caption"]:
                where = self.table.where(self._row(numbers[batch["caption"].index(None)]))
                raise ContentError(f"dataset.caption_column={caption}: {where} has no caption")
        return batch

    def _row(self, number: int) -> int:
        return int(self.numbers[number])

    def _value(self, number: int, column: str) -> Any:
        """Return the value of a column for a sample; its piece is read if it is not held."""
        row = self._row(number)
        piece = int(torch.searchsorted(self.table_ends, row, right=True))
        if piece in self._pieces:
            self._pieces[piece] = self._pieces.pop(piece)
        else:
            first, stop = 0 if piece == 0 else int(self.table_ends[piece - 1]), int(self.table_ends[piece])
            wanted = [name for name in (self.columns.label, self.columns.caption) if name is not None]
            try:
                self._pieces[piece] = first, self.table.read(self.columns.image, wanted, first, stop)
            except ContentError:
                raise
            except Exception as error:  # of many classes: of the disk, of pyarrow, of the network
                text = line_of(error)
                raise ContentError(
                    f"{self.table.where(first)} and the rows after it cannot be read ({text})"
                ) from error
            while len(self._pieces) > 1 and self._held() > self.most:
                del self._pieces[next(iter(self._pieces))]
        first, cells = self._pieces[piece]
        return cells[column][row - first]

    def _held(self) -> int:
        return sum(len(cells[self.columns.image]) for _, cells in self._pieces.values())

    def _cell(self, number: int) -> Any:
        """Return the encoded image of a sample: bytes, the path of a file, or None."""
        return self._value(number, self.columns.image)

    def _decoded(self, content: Any) -> np.ndarray | str:
        """Return the pixels of an encoded image, uint8 (C, H, W), or why it cannot be read."""
        try:
            encoded = content.read_bytes() if isinstance(content, Path) else content
            return "it is missing" if encoded is None else decode(encoded, *self.form).pixels
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            return error.strerror or type(error).__name__

    def _sound(self, number: int) -> int:
        """Return the number of the sample itself or, if it is listed as unreadable, of the next one that is not."""
        while self._bad and self._row(number) in self._bad:
            number = (number + 1) % len(self)
        return number

    def _skip(self, number: int, reason: str) -> None:
        """List the image that was read for a sample as unreadable, unless too many are."""
        row = self._row(number)
        one = Unreadable(row, self.table.where(row), reason)
        self._bad |= self._read_list()
        if row in self._bad:
            return
        self._bad[row] = one
        if len(self._bad) > self.max_bad or len(self._bad) == len(self):
            raise too_many([one], self.max_bad, len(self))
        if self.listed is None:
            return
        self.listed.parent.mkdir(parents=True, exist_ok=True)
        with self.listed.open("a") as file:  # a short line is appended whole, whoever else appends
            file.write(json.dumps(one) + "\n")
        print(
            f"{one.where} cannot be read and is skipped ({reason}; dataset.max_bad={self.max_bad}); {self.listed} "
            "lists all",
            file=sys.stderr,
        )

    def _read_list(self) -> dict[int, Unreadable]:
        lines = self.listed.read_text().splitlines() if self.listed is not None and self.listed.is_file() else []
        return {one.place: one for one in (Unreadable(*json.loads(line)) for line in lines)}
