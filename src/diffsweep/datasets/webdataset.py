"""A dataset of images in local tar files in the webdataset convention."""

from pathlib import Path

from diffsweep.datasets.local_images import LocalColumns
from diffsweep.datasets.tables import ImageTable
from diffsweep.datasets.tar_files import TarFiles


class WebDataset(LocalColumns):
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
    wanted = "a tar file of images, a folder of them or a glob, as in dataset.path='shards/*.tar'"
    usual_column = "jpg"

    @classmethod
    def table_of(cls, key: str, path: str, cache_dir: Path) -> ImageTable:
        return TarFiles(key, path, cache_dir)
