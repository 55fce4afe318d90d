"""The base class of datasets of local files at ``dataset.path``: what each format adds is how its table is read."""

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.datasets.tables import ImageTable

CACHE = "outputs/cache"


class LocalImages(StreamableImages):
    """A base class for datasets of images in local files of one format.

    Subclasses define :meth:`table_of`, which reads the files of a path as a table, and the class attributes.

    Attributes:
        wanted: what ``path`` is, with an example, for the message of a missing one.
        package: a package without which the files cannot be read; None for none.

    Args:
        path: the files that the images are read from.
        val_path: files from which images are held out, instead of from ``path``, which is then for training alone.
        cache_dir: the folder in whose subfolders decoded images, and what is known of the files, are kept.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    wanted: ClassVar[str]
    package: ClassVar[str | None] = None

    def __init__(self, path: str | None, val_path: str | None = None, cache_dir: str = CACHE, **settings: Any) -> None:
        self.tables = self.tables_of({"path": path, "val_path": val_path, "cache_dir": cache_dir})
        super().__init__(cache_dir=cache_dir, **settings)

    @classmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables of the files of ``path``, and of ``val_path`` if it is given.

        Args:
            settings: the keyword arguments of the class, of which ``path``, ``val_path`` and ``cache_dir`` are used.

        Raises:
            ValueError: no path is given, or its files cannot be read.
        """
        if settings.get("path") is None:
            raise ValueError(f"dataset.path is missing: give {cls.wanted}")
        if cls.package is not None and importlib.util.find_spec(cls.package) is None:
            raise ValueError(f"{cls.files} need {cls.package}; pip install 'diffsweep[data]'")
        cache_dir = Path(settings.get("cache_dir") or CACHE)
        paths = [(key, settings.get(key)) for key in ("path", "val_path")]
        return [cls.table_of(f"dataset.{key}", path, cache_dir) for key, path in paths if path is not None]

    @classmethod
    @abstractmethod
    def table_of(cls, key: str, path: str, cache_dir: Path) -> ImageTable:
        """Return the table of the files of one path; subclasses define it.

        Args:
            key: the configuration key that gave the path, such as ``dataset.path``, for messages.
            path: the path.
            cache_dir: the folder in which what is known of the files may be kept.

        Raises:
            ValueError: the files are missing or cannot be read.
        """


class LocalColumns(LocalImages):
    """A base class for datasets of local files that can have several columns of images, one of which is taken.

    Attributes:
        usual_column: the column of images where ``image_column`` is None.

    Args:
        path: the files that the images are read from.
        image_column: the column of images; None for the one that is usual in the format.
        settings: the others of :class:`LocalImages`.
    """

    usual_column: ClassVar[str] = "image"

    def __init__(self, path: str | None, image_column: str | None = None, **settings: Any) -> None:
        self.image_column = image_column or self.usual_column
        super().__init__(path, **settings)
