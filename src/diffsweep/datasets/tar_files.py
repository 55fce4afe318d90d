"""Read tar files in the webdataset convention as one table: members ``key.jpg``, ``key.cls``, ``key.txt``, and others.

The members are listed once, from the headers of the tar files, and the list is kept in the cache. From then on any
member is read alone, at its place in the file. Nothing is extracted.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffsweep.datasets.byte_images import identify
from diffsweep.datasets.column_names import likeliest
from diffsweep.datasets.images import SUFFIXES
from diffsweep.datasets.shards import File, TableOfFiles, files_of, opened, state_of
from diffsweep.datasets.tables import Columns, EncodedImage
from diffsweep.files import ContentError, make_once, write_atomically
from diffsweep.progress import tracked

TEXTS = ("txt", "text", "caption")
WHOLE = ("cls", "cls2", "index", "inx", "id")
JSON = "json"
LONGEST = 1 << 20  # bytes of a label or a text


class Listing(NamedTuple):
    """The members of a tar file by sample.

    Attributes:
        keys: the name of each sample, without the ends of its members' names.
        suffixes: the ends, such as ``jpg``, in the order in which they occur.
        places: int64 (samples, suffixes, 2): the first byte of a member's content and its size; -1 where it is missing.
    """

    keys: list[str]
    suffixes: list[str]
    places: np.ndarray


class TarFiles(TableOfFiles):
    """A table of the samples of one or several tar files in the webdataset convention, in the order of the files.

    Successive members whose names are equal up to the first dot of the file's name are one sample. The column of a
    member is the rest of its name, in small letters: ``jpg``, ``png``, ``cls`` (an integer or the name of a class),
    ``txt`` (a caption). The fields of ``json`` are columns too, as ``json.label`` and ``json.caption``. All samples
    need the same image column.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder (all ``*.tar`` in it and its subfolders), or a glob; or the files.
        cache_dir: the folder in whose subfolder ``tars`` the lists of members are kept.

    Raises:
        ValueError: no such file exists, one is no tar file or is compressed, has a member outside its folder or a link,
            or has no samples.
    """

    def __init__(self, key: str, path: str | Sequence[File], cache_dir: Path) -> None:
        self.key, self.files = key, files_of(key, path, ["tar"], "webdataset")
        kept = [_path(file, cache_dir / "tars") for file in self.files]
        new = [pair for pair in zip(self.files, kept, strict=True) if not pair[1].is_file()]
        for file, listing in tracked(new, "listing tar files", "file") if new else ():
            make_once(listing, partial(_keep, listing, file))
        self.listings = [_read(listing) for listing in kept]
        self.ends = list(itertools.accumulate(len(listing.keys) for listing in self.listings))
        if not len(self):
            raise ContentError(f"{key}={path}: {self.files[0]} has no samples, such as 0001.jpg with 0001.cls")
        self._fields: list[str] | None = None

    @property
    def suffixes(self) -> list[str]:
        """Return the ends of the members' names, in the order in which they occur."""
        return list(dict.fromkeys(suffix for listing in self.listings for suffix in listing.suffixes))

    @property
    def fields(self) -> list[str]:
        """Return the columns of the fields of ``json`` members, of the first sample that has one."""
        if self._fields is None:
            first = next((value for value in self._column(JSON, 0, min(len(self), 64)) if value is not None), None)
            record = _record(first, f"{self.place}: {JSON}") if first is not None else {}
            self._fields = [f"{JSON}.{name}" for name, value in record.items() if isinstance(value, str | int)]
        return self._fields

    def where(self, row: int) -> str:
        """Return the file of a row and the name of its sample, as text for messages."""
        file, inside = self.at(row)
        return f"{self.files[file]}, sample {self.listings[file].keys[inside]}"

    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the encoded images of a column in the given rows, which ascend."""
        for row, content in zip(rows, self._contents(column, rows), strict=True):
            yield EncodedImage(f"{self.where(row)}: {column}", content)

    def _contents(self, suffix: str, rows: Sequence[int]) -> Iterator[bytes | None]:
        """Yield the contents of the members with an end of names in the given rows, which ascend."""
        for file, group in itertools.groupby(rows, lambda row: self.at(row)[0]):
            listing = self.listings[file]
            number = listing.suffixes.index(suffix) if suffix in listing.suffixes else None
            with opened(self.files[file]) as source:
                for row in group:
                    start, size = (-1, 0) if number is None else listing.places[self.at(row)[1], number].tolist()
                    if start < 0:
                        yield None
                        continue
                    source.seek(start)
                    content = source.read(size)
                    yield content if len(content) == size else b""

    def columns(self) -> Columns:
        """Return the columns of images, labels and captions, by the ends of names and the names of fields."""
        images = [suffix for suffix in self.suffixes if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
        whole = [suffix for suffix in self.suffixes if suffix in WHOLE]
        texts = [suffix for suffix in self.suffixes if suffix in TEXTS]
        short = {field.partition(".")[2]: field for field in self.fields}
        found = likeliest(images, [*whole, *short], [*texts, *short])

        def full(names: Sequence[str]) -> list[str]:
            return [short.get(name, name) for name in names]

        return Columns(found.images, full(found.labels), full(found.captions))

    def check(self, image_column: str, label_column: str | None, caption_column: str | None) -> None:
        """Raise an error unless some members have the ends of names that the columns are.

        Raises:
            ContentError: the message has the key of the column, and the columns that exist.
        """
        known = [*self.suffixes, *self.fields]
        typed = {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
        for key, column in typed.items():
            if column is not None and column not in known:
                raise ContentError(f"dataset.{key}={column}: {self.place} has the columns {', '.join(known)}")

    def values(self, column: str) -> list[Any]:
        """Return a column of labels or captions in all rows, with None for a missing value; integers as integers."""
        return self._values(column, 0, len(self))

    def _column(self, suffix: str, first: int, stop: int) -> list[bytes | None]:
        return list(self._contents(suffix, range(first, stop)))

    def _values(self, column: str, first: int, stop: int) -> list[Any]:
        suffix, _, field = column.partition(".") if column in self.fields else (column, "", "")
        found: list[Any] = []
        for row, content in enumerate(self._column(suffix, first, stop), first):
            if content is None:
                found.append(None)
            elif field:
                found.append(_record(content, f"{self.where(row)}: {JSON}").get(field))
            else:
                found.append(_text(content, f"{self.where(row)}: {column}", suffix in TEXTS))
        return found

    def read(self, image: str, columns: Sequence[str], first: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Return the contents of the image members of the rows ``first`` to ``stop - 1``, and columns of values."""
        return {image: self._column(image, first, stop), **{name: self._values(name, first, stop) for name in columns}}

    def class_names(self, column: str) -> list[str] | None:
        """Return None: tar files store no names of classes."""
        return None


def _path(file: File, folder: Path) -> Path:
    """Return where the listing of a tar file is kept."""
    return folder / f"{identify({'tar': state_of(file)})}.npz"


def _read(path: Path) -> Listing:
    with np.load(path, allow_pickle=False) as stored:
        words = json.loads(stored["words"].tobytes())
        return Listing(words["keys"], words["suffixes"], stored["places"])


def _keep(path: Path, file: File) -> None:
    listing = listed(file)
    words = json.dumps({"keys": listing.keys, "suffixes": listing.suffixes}).encode()
    content = io.BytesIO()
    np.savez(content, words=np.frombuffer(words, np.uint8), places=listing.places)
    write_atomically(path, lambda out: out.write(content.getvalue()))


def listed(file: File) -> Listing:
    """Return the members of a tar file by sample, from the headers alone.

    Hidden files, folders and members without a dot are passed over.

    Args:
        file: the tar file, which is not compressed.

    Raises:
        ContentError: it is no tar file or is cut short, a name is absolute or has ``..``, or a member is a link.
    """
    keys: list[str] = []
    members: list[dict[str, tuple[int, int]]] = []
    try:
        with opened(file) as source, tarfile.open(fileobj=source, mode="r:") as archive:
            size = source.seek(0, io.SEEK_END)
            for member in archive:
                if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
                    raise ContentError(f"{file}: its member {member.name!r} is outside of its folder; is it trusted?")
                if member.issym() or member.islnk():
                    raise ContentError(f"{file}: its member {member.name!r} is a link, which is not followed")
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem or not suffix:
                    continue
                if member.offset_data + member.size > size:
                    raise ContentError(f"{file} is cut short: its member {member.name} ends after the file")
                key = f"{folder}/{stem}" if folder else stem
                if not keys or keys[-1] != key:
                    keys.append(key)
                    members.append({})
                members[-1][suffix.lower()] = member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ContentError(
            f"{file} is no readable tar file ({' '.join(str(error).split())}); compressed ones must be uncompressed"
        ) from error
    suffixes = list(dict.fromkeys(suffix for one in members for suffix in one))
    places = [[one.get(suffix, (-1, 0)) for suffix in suffixes] for one in members]
    return Listing(keys, suffixes, np.array(places, np.int64).reshape(len(keys), len(suffixes), 2))


def _text(content: bytes, where: str, is_caption: bool) -> Any:
    """Return a text, or of a label that is a whole number the integer."""
    try:
        text = content[:LONGEST].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ContentError(f"{where} is no text in UTF-8") from error
    return int(text) if not is_caption and text.isdecimal() else text


def _record(content: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise ContentError(f"{where} is no JSON") from error
    return record if isinstance(record, dict) else {}
