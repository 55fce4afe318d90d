"""A dataset of images of the Hugging Face hub, or of local files in any form that Hugging Face ``datasets`` reads."""

import hashlib
import importlib.util
import logging
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from diffsweep.datasets.column_names import likeliest
from diffsweep.datasets.hub_files import hub_files, refusal
from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.datasets.tables import Columns, EncodedImage, ImageTable
from diffsweep.files import ContentError, size_of

HUB = "https://huggingface.co"
PORTS = {"http": 80, "https": 443}
BYTES = ("binary", "large_binary")
SECONDS = 3.0  # that the server has to answer
HASHED = 1024  # rows whose images are hashed


def reachable(endpoint: str) -> bool:
    """Return whether a server, or the proxy of the environment that leads to it, accepts a connection in 3 seconds.

    Args:
        endpoint: the address of the server, such as ``https://huggingface.co``.
    """
    url = urllib.parse.urlsplit(endpoint)
    if not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlsplit(urllib.request.getproxies().get(url.scheme, endpoint))
    answers: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((url.hostname, url.port or PORTS.get(url.scheme, 443)), SECONDS):
                answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has no time limit of its own
    thread.start()
    thread.join(SECONDS)
    return answers == [True]


class HubTable(ImageTable):
    """A table of the rows of one split of a dataset that Hugging Face ``datasets`` loads, in its order.

    Args:
        name: the name of the dataset on the hub (``ylecun/mnist``), or a local folder of parquet, arrow, webdataset
            (tar), image or other files.
        subset: the configuration of the dataset, where it has several; None for the only one.
        split: the split, such as ``train``, or a part of it, such as ``train[:1000]``.

    Raises:
        ValueError: the dataset, its subset or its split does not exist, or cannot be reached.
    """

    def __init__(self, name: str, subset: str | None, split: str) -> None:
        local = Path(name).expanduser().exists()
        endpoint = os.environ.get("HF_ENDPOINT", HUB)
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        if not local and not offline and not reachable(endpoint):  # `datasets` would retry for half a minute
            raise ContentError(
                f"dataset.name={name}: split {split} cannot be loaded, since it is no local folder and {endpoint} "
                "cannot be reached; HF_HUB_OFFLINE=1 uses what was downloaded before"
            )
        from datasets import Image, disable_progress_bars, load_dataset

        self.name, self.split = name, split
        logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs comes with the error too
        disable_progress_bars()
        try:
            rows = load_dataset(str(Path(name).expanduser()) if local else name, subset, split=split)
        except Exception as error:  # of many classes: of the hub, of the network, of pyarrow
            raise refusal(name, split, error) from error
        self.features = rows.features
        self.pictures = [column for column, kind in self.features.items() if isinstance(kind, Image)]
        for column in self.pictures:
            rows = rows.cast_column(column, Image(decode=False))
        self.rows = rows
        if not len(rows):
            raise ContentError(f"dataset.name={name}: split {split} has no rows")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def place(self) -> str:
        """Return the name and the split, as text for messages."""
        return f"{self.name}, split {self.split}"

    def where(self, row: int) -> str:
        """Return the name, the split and the row, from 0."""
        return f"{self.place}, row {row}"

    def encoded(self, column: str, rows: Sequence[int]) -> Iterator[EncodedImage]:
        """Yield the encoded images of a column in the given rows."""
        cells = self.rows.select_columns([column])
        for row in rows:
            cell = cells[row][column]
            content = cell
            if isinstance(cell, dict):
                content = cell["bytes"] if cell.get("bytes") is not None else cell.get("path") and Path(cell["path"])
            yield EncodedImage(f"{self.where(row)}: column {column}", content)

    def columns(self) -> Columns:
        """Return the columns of images, labels and captions by their features and usual names."""
        from datasets import ClassLabel

        kinds = {column: str(getattr(kind, "dtype", "")) for column, kind in self.features.items()}
        texts = [column for column, kind in kinds.items() if kind in ("string", "large_string")]
        structs = [column for column, kind in self.features.items() if isinstance(kind, dict) and "bytes" in kind]
        whole = [column for column, kind in kinds.items() if kind.startswith(("int", "uint", "bool"))]
        return likeliest(
            images=[*self.pictures, *(column for column, kind in kinds.items() if kind in BYTES), *structs],
            labels=[*whole, *texts],
            texts=texts,
            declared_images=self.pictures,
            declared_labels=[column for column, kind in self.features.items() if isinstance(kind, ClassLabel)],
        )

    def check(self, image_column: str, label_column: str | None, caption_column: str | None) -> None:
        """Raise an error unless the columns exist, and that of images holds images.

        Raises:
            ContentError: the message has the key of the column, and the columns that exist.
        """
        known = ", ".join(self.features)
        typed = {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
        for key, column in typed.items():
            if column is not None and column not in self.features:
                raise ContentError(f"dataset.{key}={column}: {self.place} has the columns {known}")
        if image_column not in self.columns().images:
            raise ContentError(f"dataset.image_column={image_column} holds no images; {self.place} has {known}")

    def values(self, column: str) -> list[Any]:
        """Return a column of labels or captions, with None for a missing value; -1 is a missing label of the hub."""
        from datasets import ClassLabel

        values = list(self.rows[column])
        missing = isinstance(self.features[column], ClassLabel)
        return [None if missing and value == -1 else value for value in values]

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names of a label column; None if the data have none."""
        names: list[str] | None = getattr(self.features[column], "names", None)
        return names

    @cached_property
    def content(self) -> str:
        """A hash of the number of rows, the features, all labels and texts, and the images of up to 1,024 rows."""
        digest = hashlib.sha256(f"{len(self)} {self.features}".encode())
        found = self.columns()
        for column in (*found.labels, *found.captions):
            digest.update(repr(self.values(column)).encode())
        count = min(HASHED, len(self))
        for column in found.images:
            for one in self.encoded(column, [n * len(self) // count for n in range(count)]):
                missing = isinstance(one.content, Path) and size_of(one.content) is None
                content = one.content.read_bytes() if isinstance(one.content, Path) and not missing else one.content
                digest.update(hashlib.sha256(content if isinstance(content, bytes) else b"").digest())
        return digest.hexdigest()


class Hub(StreamableImages):
    """A dataset of images of the Hugging Face hub, or of a local folder that ``datasets.load_dataset`` reads.

    It is loaded whole, by ``datasets``, which keeps downloads in its own cache. With ``streaming`` only those parts of
    its files are read over the network that are needed at a time; see :func:`~diffsweep.datasets.hub_files.hub_files`.

    Args:
        name: the name of the dataset on the hub, or a local folder; see :class:`HubTable`.
        subset: the configuration of the dataset, where it has several.
        train_split: the split of training images.
        val_split: the split of which images are held out; None: they are held out of ``train_split``.
        image_column: the column of images.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the data, or these cannot be loaded.
    """

    files = "datasets of the hub"
    kind = "hub"
    path_key = "name"

    def __init__(
        self,
        name: str | None,
        subset: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        image_column: str = "image",
        **settings: Any,
    ) -> None:
        which = {"name": name, "subset": subset, "train_split": train_split, "val_split": val_split}
        self.tables = self.tables_of({**which, **settings})
        self.image_column = image_column
        super().__init__(**settings)

    @classmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables of ``train_split``, and of ``val_split`` if it is given.

        Raises:
            ValueError: no name is given, or the data cannot be loaded.
        """
        if settings.get("name") is None:
            raise ValueError(
                "dataset.name is missing: give a dataset of the Hugging Face hub, as in dataset.name=ylecun/mnist, "
                "or a local folder"
            )
        if importlib.util.find_spec("datasets") is None:
            raise ValueError("datasets of the hub need datasets; pip install 'diffsweep[data]'")
        splits = [settings.get("train_split") or "train", settings.get("val_split")]
        if settings.get("streaming"):
            place = Path(settings.get("cache_dir") or "outputs/cache")
            given = (settings["name"], settings.get("subset"))
            return [hub_files(*given, split, place) for split in splits if split is not None]
        return [HubTable(settings["name"], settings.get("subset"), split) for split in splits if split is not None]
