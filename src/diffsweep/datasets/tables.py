"""Tables of encoded images, a row each, with labels and captions: what all datasets of image files are decoded from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffsweep.files import ContentError

NO_COLUMN = "none"  # typed for a column that is not to be used, where null stands for the one that is found
LOOKED_AT = 64  # rows of a table whose sizes are looked at
HELD_OUT = 1000  # the most images that are held out by default
PIECE = 128  # rows that are streamed together where any row can be read alone


class EncodedImage(NamedTuple):
    """The encoded image of one row of a table.

    Attributes:
        where: the file, and the row and column in it if it has any, as text for messages.
        content: the bytes of a PNG, JPEG, ... file, or the path of such a file; None if the row has no image.
    """

    where: str
    content: bytes | Path | None


class Columns(NamedTuple):
    """The names of the columns of a table that can hold images, labels and captions, the likeliest first."""

    images: Sequence[str]
    labels: Sequence[str]
    captions: Sequence[str]


class ImageTable(ABC):
    """A base class for tables of encoded images, one in each row, in a fixed order.

    Subclasses define how a table is read: from parquet files, from a folder, or through Hugging Face ``datasets``.

    Attributes:
        random_access: whether a row can be read without its neighbours.
    """

    random_access: ClassVar[bool] = True

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows; subclasses define it."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Return the file of a row, and its number in that file if it has several, as text; subclasses define it."""

    @abstractmethod
    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the encoded images of a column in the given rows, which ascend; subclasses define it."""

    @abstractmethod
    def columns(self) -> Columns:
        """Return the names of the columns that can hold images, labels and captions; subclasses define it."""

    @abstractmethod
    def check(self, image_column: str, label_column: str | None, caption_column: str | None) -> None:
        """Raise a ContentError unless the columns exist and hold images, labels and texts; subclasses define it."""

    @abstractmethod
    def values(self, column: str) -> list[Any]:
        """Return a column of labels or captions in all rows, with None for a missing one; subclasses define it."""

    @abstractmethod
    def class_names(self, column: str) -> list[str] | None:
        """Return the names of the classes of a label column; None if none are stored; subclasses define it."""

    @property
    @abstractmethod
    def content(self) -> str:
        """Return a hash of the content; subclasses define it."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Return the first file or the folder of the table, as text for messages; subclasses define it."""

    @property
    def piece_ends(self) -> Sequence[int]:
        """Return for each piece of rows that are read together the number of rows up to its end; here 128 rows each."""
        return [*range(PIECE, len(self), PIECE), len(self)]

    def read(self, image: str, columns: Sequence[str], first: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Return columns of the rows ``first`` to ``stop - 1``, which are in one piece; here by the other methods.

        Args:
            image: the column of encoded images, whose values are bytes, the paths of files, or None.
            columns: the columns of labels and captions, whose values are those of :meth:`values`.
            first, stop: the rows.
        """
        images = [one.content for one in self.encoded(image, range(first, stop))]
        return {image: images, **{column: self.values(column)[first:stop] for column in columns}}

    def looked_at(self, column: str) -> Iterator[EncodedImage]:
        """Yield some encoded images, of which the sizes of all are estimated; here 64 evenly spaced rows."""
        count = min(LOOKED_AT, len(self))
        return self.encoded(column, [n * len(self) // count for n in range(count)])


def where_of(tables: Sequence[ImageTable], row: int) -> str:
    """Return the file of a row that is counted through several tables, and its number in that file, as text."""
    for table in tables:
        if row < len(table):
            return table.where(row)
        row -= len(table)
    raise IndexError(f"the tables have {sum(len(table) for table in tables)} rows")


def class_ids(tables: Sequence[ImageTable], column: str, num_classes: int, names: Sequence[str] | None) -> Tensor:
    """Return the class ids of all rows of several tables, int64 (N,), from 0 to ``num_classes`` - 1.

    A column of such ids is returned as it is. If it holds other values, such as texts or ids that begin at 1, they must
    be among the names of the classes, and the place of its name is the id.

    Args:
        tables: the tables, whose rows follow each other.
        column: the column of labels.
        num_classes: K.
        names: the names of the classes, in the order of their ids; None for none.

    Raises:
        ContentError: a label is missing, or is neither an id nor a name; the message names its file and row.
    """
    values = [value for table in tables for value in labels_of(table, column)]
    is_id = [type(value) is int and 0 <= value < num_classes for value in values]
    ids = {name: number for number, name in enumerate(names or ())}
    if not all(is_id) and all(str(value) in ids for value in values):
        return torch.tensor([ids[str(value)] for value in values], dtype=torch.int64)
    if not all(is_id):
        row = is_id.index(False)
        begins_at_1 = min((value for value in values if type(value) is int), default=0) == 1
        fix = "; labels that begin at 1 are found with dataset.num_classes=null" if begins_at_1 else ""
        raise _wrong_label(where_of(tables, row), values[row], num_classes, ids, fix)
    return torch.tensor(values, dtype=torch.int64)


def class_id(table: ImageTable, row: int, value: Any, num_classes: int, ids: Mapping[str, int]) -> int:
    """Return the class id of the label of one row, from 0 to ``num_classes`` - 1.

    Args:
        table: the table, for the message.
        row: the row.
        value: its label.
        num_classes: K.
        ids: the ids of classes by name; if it has names of whole numbers, such as ``1``, labels are these names.

    Raises:
        ContentError: the label is missing, or is neither an id nor a name; the message names its file and row.
    """
    if str(value) in ids:
        return ids[str(value)]
    if type(value) is int and 0 <= value < num_classes:
        return value
    raise _wrong_label(table.where(row), value, num_classes, ids, "")


def _wrong_label(where: str, value: Any, num_classes: int, ids: Mapping[str, int], fix: str) -> ContentError:
    without = "; give it a label, or set dataset.label_column=none" if value is None else ""
    named = f" or one of {_some(list(ids))}" if ids else ""
    return ContentError(
        f"dataset.num_classes={num_classes}: labels must be 0 to {num_classes - 1}{named}, but "
        f"{where} has {'null' if value is None else value}{without}{fix}"
    )


def labels_of(table: ImageTable, column: str) -> list[Any]:
    """Return a column of labels in all rows: integers, truth values or texts, and None for a missing one.

    Raises:
        ContentError: a label is something else, such as a fraction or a list; the message names its file and row.
    """
    values = table.values(column)
    for row, value in enumerate(values):
        if not isinstance(value, int | str | None):
            raise ContentError(
                f"dataset.label_column={column}: {table.where(row)} has {value}, and a label is an integer or the name "
                "of a class; dataset.label_column=none uses none"
            )
    return values


def named_classes(values: Sequence[Any]) -> tuple[int, list[str] | None]:
    """Return the number of classes of labels without stored names, and the names that follow from them.

    Integers that are all of 0 to K - 1 have no names. Of other labels, such as texts or integers that begin at 1, the
    names are the values in order, numbers by size.

    Args:
        values: the labels of all rows.
    """
    distinct = {value for value in values if value is not None}
    whole = all(type(value) is int for value in distinct)
    if whole and distinct == set(range(len(distinct))):
        return len(distinct), None
    return len(distinct), [str(value) for value in sorted(distinct, key=lambda v: v if whole else str(v))]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def captions_of(table: ImageTable, column: str) -> list[str]:
    """Return a column of texts in all rows.

    Raises:
        ContentError: a row has none, or something else; the message names its file and row.
    """
    captions = table.values(column)
    for row, caption in enumerate(captions):
        if not isinstance(caption, str):
            has = "no caption" if caption is None else f"{caption}, which is no text"
            raise ContentError(
                f"dataset.caption_column={column}: {table.where(row)} has {has}; give each image one, or set "
                "dataset.caption_column=none"
            )
    return captions


def held_out(tables: Sequence[ImageTable], max_images: int | None) -> int:
    """Return how many images are held out by default: a tenth, at least 1 and at most 1,000.

    If a second table has the held-out images, all of it is taken, at most 1,000.
    """
    if len(tables) == 2:
        return min(len(tables[1]), HELD_OUT)
    return max(1, min(min(len(tables[0]), max_images or len(tables[0])) // 10, HELD_OUT))
