"""A dataset of images in local Arrow files, as Hugging Face ``datasets`` saves them."""

from pathlib import Path

from diffsweep.datasets.arrow_files import ArrowFiles
from diffsweep.datasets.local_images import LocalColumns
from diffsweep.datasets.tables import ImageTable


class Arrow(LocalColumns):
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
    wanted = "an Arrow file of images or a folder that datasets.save_to_disk wrote, as in dataset.path=train"
    package = "pyarrow"

    @classmethod
    def table_of(cls, key: str, path: str, cache_dir: Path) -> ImageTable:
        return ArrowFiles(key, path)
