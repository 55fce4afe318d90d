"""Read several local parquet files as one table of images: its columns, class names, and a hash of its content."""

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from diffsweep.datasets.column_names import likeliest
from diffsweep.datasets.shards import File, TableOfFiles, files_of
from diffsweep.datasets.shards import opened as opened_file
from diffsweep.datasets.tables import LOOKED_AT, Columns, EncodedImage
from diffsweep.errors import line_of
from diffsweep.files import ContentError

AT_ONCE = 256  # rows that are read at once


class ParquetFiles(TableOfFiles):
    """A table of the rows of one or several parquet files with the same columns, in the order of the files' names.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder (all ``*.parquet`` in it and its subfolders), or a glob; or the files.
        features: the features of the columns as the Hugging Face hub describes them; None for those in the files.

    Raises:
        ValueError: no such file exists, one is no parquet file, the files have different columns, or no row.
    """

    random_access: ClassVar[bool] = False  # a row group is read whole
    kind: ClassVar[str] = "parquet"  # the kind of files, and the end of their names

    def __init__(self, key: str, path: str | Sequence[File], features: Mapping[str, Any] | None = None) -> None:
        from pyarrow import ArrowException

        self.features = features
        self.files = files_of(key, path, [self.kind], self.kind)
        schemas, counts, groups = [], [], []
        for file in self.files:
            try:
                schema, rows = self._schema_and_groups(file)
            except (ArrowException, OSError) as error:
                raise ContentError(f"{key}: {file} is no readable {self.kind} file ({line_of(error)})") from error
            schemas.append(schema)
            counts.append(sum(rows))
            groups += rows
        self.schema = schemas[0]
        for file, schema in zip(self.files, schemas, strict=True):
            if not schema.equals(self.schema):
                raise ContentError(
                    f"{key}: {file} has other columns than {self.files[0]}; give files with the same columns"
                )
        self.ends = list(itertools.accumulate(counts))  # for each file, the number of rows up to its end
        self.group_ends = [end for end, size in zip(itertools.accumulate(groups), groups, strict=True) if size]
        if not len(self):
            raise ContentError(f"{key}={path}: {self.files[0]} has no rows")

    def _schema_and_groups(self, file: File) -> tuple[Any, list[int]]:
        """Return the Arrow schema of a file, and the number of rows of each of its row groups."""
        with _parquet(file) as found:
            groups = range(found.metadata.num_row_groups)
            return found.schema_arrow, [found.metadata.row_group(group).num_rows for group in groups]

    @property
    def names(self) -> str:
        """Return the names of the columns, joined by commas, for messages."""
        return ", ".join(self.schema.names)

    def type_of(self, key: str, column: str) -> Any:
        """Return the Arrow type (pyarrow's DataType) of a column.

        Args:
            key: the configuration key that names the column, for the message.
            column: the name of the column.

        Raises:
            ContentError: the files have no such column; the message lists those that they have.
        """
        if column not in self.schema.names:
            raise ContentError(f"{key}={column}: {self.files[0]} has the columns {self.names}")
        return self.schema.field(column).type

    def check(self, image_column: str, label_column: str | None, caption_column: str | None) -> None:
        """Raise an error unless the columns exist and hold images, labels and texts.

        Raises:
            ContentError: a column does not exist or is of another type; the message names its key.
        """
        kind = self.type_of("dataset.image_column", image_column)
        if not _is_of_images(kind):
            raise ContentError(
                f"dataset.image_column={image_column}: the column holds {kind}, not encoded images; "
                f"{self.files[0]} has the columns {self.names}"
            )
        if caption_column is not None and not _is_text(kind := self.type_of("dataset.caption_column", caption_column)):
            raise ContentError(f"dataset.caption_column={caption_column}: the column holds {kind}, not texts")
        if label_column is not None and not _is_of_labels(kind := self.type_of("dataset.label_column", label_column)):
            raise ContentError(
                f"dataset.label_column={label_column}: the column holds {kind}, not integers or class names"
            )

    def columns(self) -> Columns:
        """Return the columns of images, labels and captions, by the hub's features, types and usual names."""
        kinds = {field.name: field.type for field in self.schema}
        stored = {name: feature.get("_type") for name, feature in self._features().items() if isinstance(feature, dict)}
        return likeliest(
            images=[name for name, kind in kinds.items() if _is_of_images(kind)],
            labels=[name for name, kind in kinds.items() if _is_of_labels(kind)],
            texts=[name for name, kind in kinds.items() if _is_text(kind)],
            declared_images=[name for name in kinds if stored.get(name) == "Image"],
            declared_labels=[name for name in kinds if stored.get(name) == "ClassLabel"],
        )

    def _features(self) -> dict[str, Any]:
        """Return the features that the Hugging Face hub stores with the files; empty if it stores none."""
        if self.features is not None:
            return dict(self.features)
        # `datasets` keeps them in Arrow's metadata. They are read here, since importing `datasets` takes seconds.
        try:
            stored = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
        except ValueError:  # they are a help, and are not needed
            return {}
        features: dict[str, Any] = stored.get("info", {}).get("features", {})
        return features

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names that the Hugging Face hub stores with a label column; None if the files store none."""
        names: list[str] | None = self._features().get(column, {}).get("names")
        return names

    def values(self, column: str) -> list[Any]:
        """Return the values of one column in all rows as Python objects, with None for a missing value."""
        values: list[Any] = []
        for file in self.files:
            with _whole_parquet(file) as opened:
                values += opened.read([column])[column].to_pylist()
        return values

    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the encoded images (PNG, JPEG, ...) of a column in the given rows, which ascend, as files are read.

        A cell is bytes, or a struct with them as ``bytes``, as the Hugging Face hub stores it.
        """
        for number, (file, first) in enumerate(zip(self.files, self.starts, strict=True)):
            wanted = rows[bisect.bisect_left(rows, first) : bisect.bisect_left(rows, self.ends[number])]
            if not len(wanted):
                continue
            with _whole_parquet(file) as opened:
                for begin, group in self._groups(opened, [row - first for row in wanted]):
                    for batch in opened.iter_batches(AT_ONCE, row_groups=[group], columns=[column]):
                        low, high = (bisect.bisect_left(wanted, first + begin + n) for n in (0, len(batch)))
                        inside = [row - first - begin for row in wanted[low:high]]
                        cells = batch.column(0).take(_indices(inside)).to_pylist() if inside else []
                        for row, cell in zip(wanted[low:high], cells, strict=True):
                            content = cell.get("bytes") if isinstance(cell, dict) else cell
                            yield EncodedImage(f"{file}, row {row - first}: column {column}", content)
                        begin += len(batch)

    @staticmethod
    def _groups(opened: Any, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the first row and the number of each row group of a file that has one of the given rows."""
        begin = 0
        for group in range(opened.metadata.num_row_groups):
            end = begin + opened.metadata.row_group(group).num_rows
            if bisect.bisect_left(rows, begin) < bisect.bisect_left(rows, end):
                yield begin, group
            begin = end

    @property
    def piece_ends(self) -> Sequence[int]:
        """Return for each row group, which is read whole, the number of rows up to its end."""
        return self.group_ends

    def read(self, image: str, columns: Sequence[str], first: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Return columns of a row group, whose images stay encoded and in Arrow's memory.

        Args:
            image: the column of encoded images.
            columns: the columns of labels and captions.
            first, stop: the first row of a row group, and the one after its last.
        """
        number, begin = self.at(first)
        with _whole_parquet(self.files[number]) as opened:
            ((_, group),) = self._groups(opened, [begin])
            rows = opened.read_row_group(group, [image, *columns], use_threads=False)
        return {image: ArrowImages(rows[image]), **{column: rows[column].to_pylist() for column in columns}}

    def looked_at(self, column: str) -> Iterator[EncodedImage]:
        """Yield the first encoded images of up to four files, 64 in all: rows elsewhere would take longer to reach."""
        starts = self.starts[:4]
        each = LOOKED_AT // len(starts)
        spans = (range(start, min(start + each, end)) for start, end in zip(starts, self.ends, strict=False))
        return self.encoded(column, [row for span in spans for row in span])


class ArrowImages(Sequence[Any]):
    """The encoded images of an Arrow column, taken out of it when they are requested.

    Args:
        column: an array of bytes, or of structs that have them as ``bytes``, as the Hugging Face hub stores images.
    """

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: Any) -> Any:
        cell = self.column[row].as_py()
        return cell.get("bytes") if isinstance(cell, dict) else cell


@contextmanager
def _parquet(file: File) -> Iterator[Any]:
    """Open a parquet file, of which only the parts that are requested are read, within a context."""
    from pyarrow.parquet import ParquetFile

    with opened_file(file) as source, ParquetFile(file if isinstance(file, Path) else source) as found:
        yield found


@contextmanager
def _whole_parquet(file: File) -> Iterator[Any]:
    """Open a parquet file whose head was read before, within a context.

    Raises:
        ContentError: the file is no parquet file, or a part of it that the body reads is damaged.
    """
    from pyarrow import ArrowException

    try:
        with _parquet(file) as found:
            yield found
    except (ArrowException, OSError) as error:
        raise ContentError(
            f"{file} is no readable parquet file ({line_of(error)}); if it is damaged, get it again"
        ) from error


def _indices(rows: Sequence[int]) -> Any:
    from pyarrow import array, int64

    return array(rows, int64())


def _is_of_images(kind: Any) -> bool:
    """Return whether an Arrow type is of encoded images: bytes, or a struct with a field of bytes."""
    from pyarrow import types

    fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {"bytes": kind}
    return "bytes" in fields and (types.is_binary(fields["bytes"]) or types.is_large_binary(fields["bytes"]))


def _is_of_labels(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_boolean(kind)) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))
