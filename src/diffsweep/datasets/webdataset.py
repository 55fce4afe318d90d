"""A dataset of images in local tar files in the webdataset convention."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.datasets.tables import ImageTable
from diffsweep.datasets.tar_files import TarFiles


class WebDataset(StreamableImages):
    """A dataset of images in tar files, whose members ``key.jpg``, ``key.cls``, ``key.txt`` are a sample.

    :class:`~diffsweep.datasets.tar_files.TarFiles` describes what is read. Nothing is extracted.

    Args:
        path: a tar file, a folder of them, or a glob.
        image_column: the end of the names of the images, such as ``jpg``.
        val_path: files from which images are held out, instead of from ``path``, which is then for training alone.
        cache_dir: the folder in whose subfolders the lists of members, and decoded images, are kept.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    files = "tar files"
    kind = "webdataset"

    def __init__(
        self,
        path: str | None,
        image_column: str = "jpg",
        val_path: str | None = None,
        cache_dir: str = "outputs/cache",
        **settings: Any,
    ) -> None:
        self.tables = self.tables_of({"path": path, "val_path": val_path, "cache_dir": cache_dir})
        self.image_column = image_column
        super().__init__(cache_dir=cache_dir, **settings)

    @classmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables of the files of ``path``, and of ``val_path`` if it is given.

        Raises:
            ValueError: no path is given, or its files cannot be read.
        """
        if settings.get("path") is None:
            raise ValueError(
                "dataset.path is missing: give a tar file of images, a folder of them or a glob, as in "
                "dataset.path='shards/*.tar'"
            )
        cache_dir = Path(settings.get("cache_dir") or "outputs/cache")
        paths = [(key, settings.get(key)) for key in ("path", "val_path")]
        return [TarFiles(f"dataset.{key}", path, cache_dir) for key, path in paths if path is not None]
