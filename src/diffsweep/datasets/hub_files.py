"""The files of a dataset of the Hugging Face hub, to be streamed: ``datasets`` finds them, they are read piecewise."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffsweep.datasets.arrow_files import ArrowFiles
from diffsweep.datasets.parquet_files import ParquetFiles
from diffsweep.datasets.shards import File, RemoteFile
from diffsweep.datasets.tables import ImageTable
from diffsweep.datasets.tar_files import TarFiles
from diffsweep.errors import line_of
from diffsweep.files import ContentError

TableReader = Callable[[str, Sequence[File], Mapping[str, Any] | None, Path], ImageTable]
READERS: dict[str, TableReader] = {  # by the module of datasets that reads such files
    "parquet": lambda key, files, features, _: ParquetFiles(key, files, features),
    "arrow": lambda key, files, features, _: ArrowFiles(key, files, features),
    "webdataset": lambda key, files, _, cache_dir: TarFiles(key, files, cache_dir),
}
MAPPED = ("arrow",)  # files that are mapped into memory, and so are local


def hub_files(name: str, subset: str | None, split: str, cache_dir: Path) -> ImageTable:
    """Return the table of the files of one split of a dataset of the hub, which are not downloaded.

    Of parquet files row groups are read, of tar files in the webdataset convention members. The members of a tar file
    are listed once, for which the headers of all its members are read. A local folder is read in place.

    Args:
        name: the name of the dataset on the hub, or a local folder; see :class:`~diffsweep.datasets.hub.HubTable`.
        subset: the configuration of the dataset, where it has several; None for the only one.
        split: the split, such as ``train``; no part of it.
        cache_dir: the folder in which the lists of members of tar files are kept.

    Raises:
        ContentError: the dataset or its split does not exist or cannot be reached, or has files of another kind.
    """
    from datasets import disable_progress_bars, load_dataset_builder

    logging.getLogger("datasets").setLevel(logging.ERROR)  # its warnings on the network come with the error
    disable_progress_bars()
    local = Path(name).expanduser()
    try:
        builder = load_dataset_builder(str(local) if local.exists() else name, subset)
    except Exception as error:  # of many classes: of the hub, of the network, of pyarrow
        raise refusal(name, split, error) from error
    kind = type(builder).__module__.rpartition(".")[2]
    found = {str(key): list(files) for key, files in (builder.config.data_files or {}).items()}
    if split not in found:
        part = "; streamed data take dataset.max_images for a part of a split" if "[" in split else ""
        raise ContentError(f"dataset.name={name}: no split {split}, but {', '.join(found) or 'none'}{part}")
    if kind not in READERS or (kind in MAPPED and any("://" in file for file in found[split])):
        raise ContentError(
            f"dataset.name={name}: its files are of the kind {kind}, and parquet and webdataset files can be "
            "streamed; use dataset.streaming=false"
        )
    files: list[File] = [RemoteFile(file) if "://" in file else Path(file) for file in sorted(found[split])]
    features = None if builder.info.features is None else builder.info.features.to_dict()
    try:
        return READERS[kind]("dataset.name", files, features, cache_dir)
    except OSError as error:
        raise refusal(name, split, error) from error


def refusal(name: str, split: str, error: Exception) -> ContentError:
    """Return the error of a dataset that cannot be loaded, for an error of ``datasets``, pyarrow or the network.

    Args:
        name: the name of the dataset on the hub, or a local folder.
        split: the split.
        error: why it cannot be loaded.
    """
    while isinstance(error.__cause__, Exception):  # the first one names the file or the reason
        error = error.__cause__
    text = line_of(error)[:200]
    return ContentError(
        f"dataset.name={name}: split {split} cannot be loaded ({type(error).__name__}: {text}); give a dataset "
        "of the hub, with a connection to it, or a local folder"
    )
