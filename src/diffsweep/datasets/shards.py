"""Find the files of a dataset, on the disk or elsewhere, and count the rows of a table through several of them."""

import bisect
import glob
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from diffsweep.datasets.tables import ImageTable
from diffsweep.files import content_hash


class RemoteFile:
    """A file that is read over the network, such as one of the Hugging Face hub; only what is requested is read.

    Args:
        url: an address that fsspec opens, such as ``hf://datasets/OWNER/NAME/train-00000.parquet``.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    @property
    def state(self) -> list[Any]:
        """Return values that change with the content: the size, and the entity tag or the time of change if any."""
        from fsspec.core import url_to_fs

        system, path = url_to_fs(self.url)
        facts = system.info(path)
        marks = [facts[name] for name in ("ETag", "blob_id", "oid", "mtime", "created") if facts.get(name)]
        return [facts.get("size"), *map(str, marks)]


File = Path | RemoteFile


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """Open a file for binary reading within a context.

    Raises:
        OSError: the file does not exist, or cannot be reached.
    """
    if isinstance(file, Path):
        with file.open("rb") as local:
            yield local
    else:
        import fsspec

        with fsspec.open(file.url, "rb") as remote:
            yield remote


def state_of(file: File) -> list[Any]:
    """Return values that change with the content of a file: its size, and its time of change or entity tag."""
    if isinstance(file, Path):
        found = file.stat()
        return [str(file.resolve()), found.st_size, found.st_mtime_ns]
    return [file.url, *file.state]


def hash_of(files: Sequence[File]) -> str:
    """Return a hash that changes with the content of files: see :func:`~diffsweep.files.content_hash`.

    Of a file that is read over the network the state, see :func:`state_of`, stands for the content."""
    local = [file for file in files if isinstance(file, Path)]
    if len(local) == len(files):
        return content_hash(local)
    return hashlib.sha256(repr([state_of(file) for file in files]).encode()).hexdigest()


def files_of(key: str, path: str | Sequence[File], suffixes: Sequence[str], kind: str) -> list[File]:
    """Return the files that a path stands for, in the order of their names; a list of files as it is.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder, or a glob; or the files.
        suffixes: the ends of the names of files that are taken from a folder, without the dot.
        kind: the kind of files, such as ``parquet``, for messages.

    Raises:
        ValueError: the path stands for no file.
    """
    if not isinstance(path, str):
        return list(path)
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        if files := sorted(file for suffix in suffixes for file in place.rglob(f"*.{suffix}")):
            return [*files]
        ends = " or ".join(f"*.{suffix}" for suffix in suffixes)
        raise ValueError(
            f"{key}={path}: the folder has no {ends} file; give a {kind} file, a folder or a glob, or use "
            "dataset=image_folder for a folder of images"
        )
    if files := sorted(Path(found) for found in glob.glob(str(place), recursive=True)):
        return [*files]
    raise ValueError(f"{key}={path}: no such file; give a {kind} file, a folder of them or a glob")


class TableOfFiles(ImageTable):
    """A base class for tables whose rows lie in several files one after the other.

    Attributes:
        files: the files.
        ends: for each file, the number of rows up to its end.
    """

    files: list[File]
    ends: list[int]

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def place(self) -> str:
        """Return the first file, as text for messages."""
        return str(self.files[0])

    @property
    def starts(self) -> list[int]:
        """Return for each file the number of rows before it."""
        return [0, *self.ends[:-1]]

    def at(self, row: int) -> tuple[int, int]:
        """Return the number of the file that has a row, and the row's number in it, both from 0.

        Args:
            row: the row's number in the whole table.
        """
        file = bisect.bisect_right(self.ends, row)
        return file, row - (self.ends[file - 1] if file else 0)

    def where(self, row: int) -> str:
        """Return the file of a row and the row's number in that file, from 0, as text for messages."""
        file, inside = self.at(row)
        return f"{self.files[file]}, row {inside}"

    @property
    def content(self) -> str:
        """Return a hash of the sizes and contents of the files, see :func:`hash_of`."""
        return hash_of(self.files)
