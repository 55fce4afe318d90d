"""Read several local Arrow files, as ``datasets.save_to_disk`` writes them, as one table of images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from diffsweep.datasets.parquet_files import ArrowImages, ParquetFiles
from diffsweep.datasets.shards import File
from diffsweep.datasets.tables import PIECE, EncodedImage
from diffsweep.files import ContentError

SPLITS = "dataset_dict.json"  # a file of ``datasets`` in a folder with a folder for each split


class ArrowFiles(ParquetFiles):
    """A table of the rows of one or several Arrow files with the same columns, in the order of the files' names.

    Files in Arrow's stream format and in its file format are read. They are mapped into memory, so any row is read
    without its neighbours. Columns and class names are found as in parquet files.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder (all ``*.arrow`` in it and its subfolders), or a glob; or the files, which are local.
        features: the features of the columns as the Hugging Face hub describes them; None for those in the files.

    Raises:
        ValueError: no such file exists, one is no Arrow file, the files have different columns, or no row; or the
            folder has a folder for each split.
    """

    random_access: ClassVar[bool] = True
    kind: ClassVar[str] = "arrow"

    def __init__(self, key: str, path: str | Sequence[File], features: Mapping[str, Any] | None = None) -> None:
        folder = Path(path).expanduser() if isinstance(path, str) else None
        if folder is not None and (folder / SPLITS).is_file():
            names = sorted(place.name for place in folder.iterdir() if place.is_dir())
            raise ValueError(
                f"{key}={path}: the folders {', '.join(names)} are splits; give one in dataset.path, as in "
                f"dataset.path={folder / names[0] if names else folder}, and one in dataset.val_path"
            )
        self._tables: dict[File, Any] = {}
        super().__init__(key, path, features)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}  # mapped again by the process that gets it

    def _rows(self, file: File) -> Any:
        """Return the Arrow table of a file, which is mapped once by each process."""
        import pyarrow

        if file not in self._tables:
            source = pyarrow.memory_map(str(file))
            try:
                self._tables[file] = pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                self._tables[file] = pyarrow.ipc.open_file(source).read_all()
        return self._tables[file]

    def _schema_and_groups(self, file: File) -> tuple[Any, list[int]]:
        rows = self._rows(file)
        return rows.schema, [len(rows)]

    @property
    def piece_ends(self) -> Sequence[int]:
        """Return for each piece of up to 128 rows of one file the number of rows up to its end."""
        return sorted({*range(PIECE, len(self), PIECE), *self.ends} - {0})

    def values(self, column: str) -> list[Any]:
        """Return the values of one column in all rows as Python objects, with None for a missing value."""
        return [value for file in self.files for value in self._rows(file)[column].to_pylist()]

    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the encoded images (PNG, JPEG, ...) of a column in the given rows, which ascend."""
        for row in rows:
            number, inside = self.at(row)
            cells = ArrowImages(self._rows(self.files[number])[column])
            yield EncodedImage(f"{self.where(row)}: column {column}", cells[inside])

    def read(self, image: str, columns: Sequence[str], first: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Return columns of the rows ``first`` to ``stop - 1`` of one file, whose images stay encoded and mapped."""
        number, begin = self.at(first)
        rows = self._rows(self.files[number]).slice(begin, stop - first)
        if len(rows) != stop - first:
            raise ContentError(f"{self.where(first)} and the rows after it are not in one file")
        return {image: ArrowImages(rows[image]), **{column: rows[column].to_pylist() for column in columns}}
