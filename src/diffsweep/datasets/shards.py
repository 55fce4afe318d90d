"""Find the files of a dataset: one file, all files of a kind in a folder and its subfolders, or those of a glob."""

import glob
from collections.abc import Sequence
from pathlib import Path


def files_of(key: str, path: str, suffixes: Sequence[str], kind: str) -> list[Path]:
    """Return the files that a path stands for, in the order of their names.

    Args:
        key: the configuration key that gave the path, such as ``dataset.path``, for messages.
        path: a file, a folder, or a glob.
        suffixes: the ends of the names of files that are taken from a folder, without the dot.
        kind: the kind of files, such as ``parquet``, for messages.

    Raises:
        ValueError: the path stands for no file.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        if files := sorted(file for suffix in suffixes for file in place.rglob(f"*.{suffix}")):
            return files
        ends = " or ".join(f"*.{suffix}" for suffix in suffixes)
        raise ValueError(
            f"{key}={path}: the folder has no {ends} file; give a {kind} file, a folder or a glob, or use "
            "dataset=image_folder for a folder of images"
        )
    if files := sorted(Path(found) for found in glob.glob(str(place), recursive=True)):
        return files
    raise ValueError(f"{key}={path}: no such file; give a {kind} file, a folder of them or a glob")
