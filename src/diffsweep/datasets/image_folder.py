"""A dataset of a folder of image files."""

from collections.abc import Mapping
from typing import Any

from diffsweep.datasets.folder_files import FILE, FolderFiles
from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.datasets.tables import ImageTable


class ImageFolder(StreamableImages):
    """A dataset of the image files in a folder and its subfolders, which may be classes, with captions beside them.

    :class:`~diffsweep.datasets.folder_files.FolderFiles` describes what is read: png, jpg, webp, gif, bmp, tiff, avif,
    jp2 and ppm files; labels of the folders' names or of a metadata file; captions of a metadata file or of text files.

    Args:
        path: the folder.
        val_path: a folder with the same classes from which images are held out, instead of from ``path``.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    files = "image files"
    kind = "folder"

    def __init__(self, path: str | None, val_path: str | None = None, **settings: Any) -> None:
        self.tables = self.tables_of({"path": path, "val_path": val_path})
        self.image_column = FILE
        super().__init__(**settings)

    @classmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables of the folders ``path``, and ``val_path`` if it is given.

        Raises:
            ValueError: no path is given, or its folder cannot be read.
        """
        if settings.get("path") is None:
            raise ValueError("dataset.path is missing: give a folder of images, as in dataset.path=photos")
        paths = [(key, settings.get(key)) for key in ("path", "val_path")]
        return [FolderFiles(f"dataset.{key}", path) for key, path in paths if path is not None]
