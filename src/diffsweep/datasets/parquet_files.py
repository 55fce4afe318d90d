"""Read several local parquet files as one table: its columns, its class names, and a hash of its content."""

import bisect
import glob
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffsweep.files import ContentError, content_hash


class ParquetFiles:
    """A table of the rows of one or several parquet files with the same columns, in the order of the files' names.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder (all ``*.parquet`` in it and its subfolders), or a glob.

    Raises:
        ValueError: no such file exists, one is no parquet file, or the files have different columns.
    """

    def __init__(self, key: str, path: str) -> None:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        self.files = _find(key, path)
        schemas, counts = [], []
        for file in self.files:
            try:
                with ParquetFile(file) as opened:
                    schemas.append(opened.schema_arrow)
                    counts.append(opened.metadata.num_rows)
            except (ArrowException, OSError) as error:
                raise ContentError(f"{key}: {file} is no readable parquet file ({_line(error)})") from error
        self.schema = schemas[0]
        for file, schema in zip(self.files, schemas, strict=True):
            if not schema.equals(self.schema):
                raise ContentError(
                    f"{key}: {file} has other columns than {self.files[0]}; give files with the same columns"
                )
        self.ends = list(itertools.accumulate(counts))  # for each file, the number of rows up to its end

    def __len__(self) -> int:
        return self.ends[-1]

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

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names that the Hugging Face hub stores with a label column; None if the files store none."""
        # `datasets` keeps them in Arrow's metadata. They are read here, since importing `datasets` takes seconds.
        stored = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
        names: list[str] | None = stored.get("info", {}).get("features", {}).get(column, {}).get("names")
        return names

    def column(self, name: str) -> list[Any]:
        """Return the values of one column in all rows as Python objects, with None for a missing value."""
        from pyarrow.parquet import ParquetFile

        values: list[Any] = []
        for file in self.files:
            with ParquetFile(file) as opened:
                values += opened.read([name])[name].to_pylist()
        return values

    def contents(self, column: str) -> Iterator[Any]:
        """Yield the encoded images (PNG, JPEG, ...) of a column, row by row as files are read.

        An image is bytes, or a dict with them as ``bytes``, as the Hugging Face hub stores it; None where it is
        missing.
        """
        from datasets import load_dataset

        stream = load_dataset(
            "parquet", data_files=[glob.escape(str(file)) for file in self.files], split="train", streaming=True
        )
        return (row[column] for row in stream.select_columns([column]).decode(False))

    def where(self, row: int) -> str:
        """Return the file of a row and the row's number in that file, from 0, as text for messages.

        Args:
            row: the row's number in the whole table.
        """
        file = bisect.bisect_right(self.ends, row)
        return f"{self.files[file]}, row {row - ([0, *self.ends])[file]}"

    @property
    def content(self) -> str:
        """Return a hash of the sizes and contents of the files; see :func:`~diffsweep.files.content_hash`."""
        return content_hash(self.files)


def _find(key: str, path: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        if files := sorted(place.rglob("*.parquet")):
            return files
        raise ValueError(f"{key}={path}: the folder has no *.parquet file; give a parquet file, a folder or a glob")
    if files := sorted(Path(found) for found in glob.glob(str(place), recursive=True)):
        return files
    raise ValueError(f"{key}={path}: no such file; give a parquet file, a folder of them or a glob")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
