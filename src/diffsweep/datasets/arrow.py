"""A dataset of images in local Arrow files, as Hugging Face ``datasets`` saves them."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from diffsweep.datasets.arrow_files import ArrowFiles
from diffsweep.datasets.streamed_images import StreamableImages
from diffsweep.datasets.tables import ImageTable


class Arrow(StreamableImages):
    """A dataset of images in local Arrow files, one in each row, with labels or captions in other columns.

    ``Dataset.save_to_disk`` of Hugging Face ``datasets`` writes such files.

    Args:
        path: an Arrow file, a folder of them, or a glob.
        image_column: the column of encoded images, as bytes or in the form of the Hugging Face hub.
        val_path: files from which images are held out, instead of from ``path``, which is then for training alone.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    files = "Arrow files"
    kind = "arrow"

    def __init__(
        self, path: str | None, image_column: str = "image", val_path: str | None = None, **settings: Any
    ) -> None:
        self.tables = self.tables_of({"path": path, "val_path": val_path})
        self.image_column = image_column
        super().__init__(**settings)

    @classmethod
    def tables_of(cls, settings: Mapping[str, Any]) -> list[ImageTable]:
        """Return the tables of the files of ``path``, and of ``val_path`` if it is given.

        Raises:
            ValueError: no path is given, or its files cannot be read.
        """
        if settings.get("path") is None:
            raise ValueError(
                "dataset.path is missing: give an Arrow file of images or a folder that datasets.save_to_disk wrote, "
                "as in dataset.path=train"
            )
        if importlib.util.find_spec("pyarrow") is None:
            raise ValueError("Arrow files need pyarrow; pip install 'diffsweep[data]'")
        paths = [(key, settings.get(key)) for key in ("path", "val_path")]
        return [ArrowFiles(f"dataset.{key}", path) for key, path in paths if path is not None]
