"""Read a folder of image files as a table: folders are classes, and captions are in metadata files or text files."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep.datasets.column_names import likeliest
from diffsweep.datasets.images import SUFFIXES
from diffsweep.datasets.tables import Columns, EncodedImage, ImageTable
from diffsweep.files import ContentError, content_hash, read_bytes, size_of

FILE = "file"  # the name of the column of images
FOLDERS = "folders"  # the name of the labels that are the folders of the images
TEXTS = "txt"  # the name of the captions that are in a text file beside each image
METADATA = ("metadata.jsonl", "metadata.csv")
NAME = "file_name"  # the column of a metadata file that names the image
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})
HASHED = 1024  # files whose content is hashed; of all, names and sizes are


class FolderFiles(ImageTable):
    """A table of the image files in a folder and its subfolders, in the order of their paths.

    Hidden files and folders, and files with other suffixes than those of images, are passed over. Columns other than
    the image are ``folders``, the path of each image's folder within the given one (``cat``, ``animals/cat``), if all
    images are in subfolders; ``txt``, the text of the file with the image's name and the suffix ``.txt``; and those of
    files ``metadata.jsonl`` and ``metadata.csv`` in any folder, whose ``file_name`` is a path from that folder.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: the folder.

    Raises:
        ValueError: the folder does not exist, it has no images, it has a folder for each split, or a metadata file
            cannot be read or names no image of the folder.
    """

    def __init__(self, key: str, path: str) -> None:
        self.key, self.folder = key, Path(path).expanduser()
        if not self.folder.is_dir():
            what = "is a file" if self.folder.exists() else "no such folder"
            raise ValueError(f"{key}={path}: {what}; give a folder of images")
        every = sorted(_files_in(self.folder))
        self.paths = [file for file in every if os.path.splitext(file)[1].lower() in SUFFIXES]
        self.texts = {file for file in every if file.lower().endswith(".txt")}
        self.metadata_files = [file for file in every if os.path.basename(file) in METADATA]
        if not self.paths:
            raise ValueError(
                f"{key}={path}: the folder and its subfolders have no images ({', '.join(sorted(SUFFIXES))})"
            )
        tops = {file.partition("/")[0] for file in self.paths}
        if len(tops) > 1 and tops <= SPLITS:
            names = sorted(tops)
            raise ValueError(
                f"{key}={path}: the folders {', '.join(names)} are splits, not classes; give one in dataset.path and "
                "one in dataset.val_path"
            )
        self._metadata: dict[str, list[Any]] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def place(self) -> str:
        """Return the folder, as text for messages."""
        return str(self.folder)

    def where(self, row: int) -> str:
        """Return the path of the file of a row."""
        return str(self.folder / self.paths[row])

    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the paths of the images of the given rows, whatever the column."""
        return (EncodedImage(str(path), path) for path in (self.folder / self.paths[row] for row in rows))

    def read(self, image: str, columns: Sequence[str], first: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Return the paths of the images of the rows ``first`` to ``stop - 1``, and columns of labels and captions.

        Raises:
            ContentError: a text file is not in UTF-8.
        """
        paths = [self.folder / path for path in self.paths[first:stop]]
        return {image: paths, **{column: self._values(column, first, stop) for column in columns}}

    def columns(self) -> Columns:
        """Return the columns of images, labels and captions: those of metadata files come first."""
        texts = [name for name, values in self.metadata.items() if any(isinstance(value, str) for value in values)]
        found = likeliest([], list(self.metadata), texts)
        folders = [FOLDERS] if all("/" in file for file in self.paths) else []
        beside = [TEXTS] if any(_text_of(file) in self.texts for file in self.paths) else []
        return Columns([FILE], [*found.labels, *folders], [*found.captions, *beside])

    def check(self, image_column: str, label_column: str | None, caption_column: str | None) -> None:
        """Raise an error unless the columns of labels and captions exist.

        Raises:
            ContentError: a column does not exist; the message has its key and those that exist.
        """
        for key, column in (("label_column", label_column), ("caption_column", caption_column)):
            if column is not None and column not in (*self.metadata, FOLDERS, TEXTS):
                known = ", ".join([FOLDERS, TEXTS, *self.metadata])
                raise ContentError(f"dataset.{key}={column}: {self.folder} has {known}")
        if label_column == FOLDERS and (direct := [file for file in self.paths if "/" not in file]):
            raise ContentError(
                f"dataset.label_column={FOLDERS}: {self.folder / direct[0]} is in no subfolder, so it has no class; "
                f"dataset.label_column=none has no classes"
            )

    def values(self, column: str) -> list[Any]:
        """Return the folders, the texts beside the images, or a column of the metadata, with None for a missing one.

        Raises:
            ContentError: a text file is not in UTF-8.
        """
        return self._values(column, 0, len(self))

    def _values(self, column: str, first: int, stop: int) -> list[Any]:
        if column in self.metadata:
            return self.metadata[column][first:stop]
        files = self.paths[first:stop]
        if column == FOLDERS:
            return [file.rpartition("/")[0] for file in files]
        return [_read(self.folder / _text_of(file)) if _text_of(file) in self.texts else None for file in files]

    def class_names(self, column: str) -> list[str] | None:
        """Return the names of the folders in order; None for other columns."""
        return sorted(set(self.values(column))) if column == FOLDERS and FOLDERS not in self.metadata else None

    @property
    def metadata(self) -> dict[str, list[Any]]:
        """Return the columns of all metadata files, each with a value for each image; None where it is missing.

        Raises:
            ContentError: a metadata file cannot be read, or names no image of the folder.
        """
        if self._metadata is None:
            row_of = {file: row for row, file in enumerate(self.paths)}
            columns: dict[str, list[Any]] = {}
            for name in self.metadata_files:
                for line, record in _records(self.folder / name):
                    image = os.path.normpath(os.path.join(os.path.dirname(name), str(record.get(NAME))))
                    if image not in row_of:
                        raise ContentError(
                            f"{self.folder / name}, line {line}: {NAME}={record.get(NAME)} is no image of the folder"
                        )
                    for key, value in record.items():
                        if key != NAME and value is not None:
                            columns.setdefault(str(key), [None] * len(self.paths))[row_of[image]] = value
            self._metadata = {key: _numbers(values) for key, values in columns.items()}
        return self._metadata

    @property
    def content(self) -> str:
        """Return a hash of the names and sizes of all files that are read, and of the content of up to 1,024 of them.

        Those are evenly spaced, and the metadata files. So a change elsewhere that keeps the size is not noticed.
        """
        files = sorted({*self.paths, *self.texts, *self.metadata_files})
        digest = hashlib.sha256()
        for file in files:
            digest.update(os.fsencode(file) + b"\0" + str(size_of(self.folder / file)).encode() + b"\n")
        count = min(HASHED, len(files))
        some = [self.folder / file for file in [files[n * len(files) // count] for n in range(count)]]
        some += [self.folder / file for file in self.metadata_files]
        digest.update(content_hash([file for file in some if size_of(file) is not None]).encode())
        return digest.hexdigest()


def _files_in(folder: Path) -> Iterator[str]:
    """Yield the paths of all files in a folder, with ``/`` between folders, without hidden ones; links are followed.

    Raises:
        ContentError: a folder cannot be listed, such as one without permission.
    """

    def refuse(error: OSError) -> None:
        raise ContentError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    seen = set()
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above, which would have no end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(root, folder).replace(os.sep, "/")
        for name in files:
            if not name.startswith("."):
                yield name if inside == "." else f"{inside}/{name}"


def _text_of(file: str) -> str:
    return f"{os.path.splitext(file)[0]}.txt"


def _read(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ContentError(f"{path} is no text in UTF-8; save it in that encoding") from error
    except OSError as error:
        raise ContentError(f"{path} cannot be read ({error.strerror})") from error


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a metadata file, each with the number of its line."""
    text = _read(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            if NAME not in (reader.fieldnames or ()):
                raise ContentError(f"{path} has no column {NAME}; it has {', '.join(reader.fieldnames or ['none'])}")
            for row in reader:
                if None in row:
                    raise ContentError(f"{path}, line {reader.line_num} has more cells than the first line has columns")
                yield reader.line_num, row
        except csv.Error as error:
            raise ContentError(f"{path}, line {reader.line_num} is no CSV ({error})") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ContentError(f"{path}, line {number} is no JSON") from error
        if record is None:
            continue
        if not isinstance(record, dict) or NAME not in record:
            raise ContentError(f"{path}, line {number} has no {NAME}")
        yield number, record


def _numbers(values: list[Any]) -> list[Any]:
    """Return a column of whole numbers as integers, also where a file has them as texts; other columns unchanged."""
    given = [value for value in values if value is not None]
    if not all(isinstance(value, str) and value.strip().isdecimal() for value in given):
        return values
    return [None if value is None else int(value) for value in values]
