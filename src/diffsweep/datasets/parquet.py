"""A dataset of images in local parquet files, such as the Hugging Face hub's."""

from pathlib import Path

from diffsweep.datasets.local_images import LocalColumns
from diffsweep.datasets.parquet_files import ParquetFiles
from diffsweep.datasets.tables import ImageTable


class Parquet(LocalColumns):
    """A dataset of images in local parquet files, one in each row, with labels or captions in other columns.

    Args:
        path: a parquet file, a folder of them, or a glob.
        image_column: the column of encoded images, as bytes or in the form of the Hugging Face hub.
        val_path: files from which images are held out, instead of from ``path``, which is then for training alone.
        settings: columns, sizes and the others of :class:`~diffsweep.datasets.streamed_images.StreamableImages`.

    Raises:
        ValueError: a setting is out of its range, or disagrees with the files.
    """

    files = "parquet files"
    kind = "parquet"
    wanted = "a parquet file of images, a folder of them or a glob, as in dataset.path=train.parquet"
    package = "pyarrow"

    @classmethod
    def table_of(cls, key: str, path: str, cache_dir: Path) -> ImageTable:
        return ParquetFiles(key, path)
