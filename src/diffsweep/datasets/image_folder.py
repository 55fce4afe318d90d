"""A dataset of a folder of image files."""

from pathlib import Path

from diffsweep.datasets.folder_files import FILE, FolderFiles
from diffsweep.datasets.local_images import LocalImages
from diffsweep.datasets.tables import ImageTable


class ImageFolder(LocalImages):
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
    wanted = "a folder of images, as in dataset.path=photos"
    image_column = FILE

    @classmethod
    def table_of(cls, key: str, path: str, cache_dir: Path) -> ImageTable:
        return FolderFiles(key, path)
