"""Checkpoints whose large tensors are in several files, one of each process (rank) that has trained.

Each process writes its part of the sharded tensors, some rows of each, into a file of its own, such as
``last-00001600-3f2a91c0-1of2.shard``. The checkpoint ``last.ckpt`` itself is written when all of these are on the disk:
it has everything else, and the names and hashes of the files. So a kill leaves the former checkpoint with its files, or
the new one with all of its own.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffsweep.layers.sharding import is_sharded, own_part
from diffsweep.tensor_files import DamagedFile, check_hash, read_tensors, saved_hash, write_tensors

SHARDS = "shards"  # key of a checkpoint: its files, and the shapes and types of the sharded tensors
NUMBER = "diffsweep.sharded"  # key of a dict with the number of a sharded tensor, in its place
ENDING = ".shard"


class Shard(NamedTuple):
    """A file with the parts of one process: its name, beside the checkpoint, and the hash that it carries."""

    name: str
    sha256: str


def without_sharded(content: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the content of a checkpoint with a number in the place of each sharded tensor, and these tensors in order.

    Args:
        content: tensors, texts, numbers and containers of them; it is not changed.
    """
    found: list[Tensor] = []

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor) and is_sharded(value):
            found.append(value)
            return {NUMBER: len(found) - 1}
        if isinstance(value, dict):
            return {key: replaced(part) for key, part in value.items()}
        if type(value) in (list, tuple):
            return type(value)(replaced(part) for part in value)
        return value

    return replaced(content), found


def write_shard(path: Path, tensors: Sequence[Tensor], step: int, save: str, rank: int, count: int) -> Shard:
    """Write this process's parts of sharded tensors into a file beside a checkpoint that is not written yet.

    Args:
        path: the file of the checkpoint.
        tensors: the sharded tensors.
        step: the optimizer step of the checkpoint.
        save: a text that no other save has, the same on all processes: so no file of a former checkpoint is replaced.
        rank, count: the number of this process from 0, and the number of processes.

    Raises:
        DiskFull: the file does not fit on the disk.
    """
    name = f"{path.stem}-{step:08}-{save}-{rank + 1}of{count}{ENDING}"
    parts = [part.clone() if _is_view(part := own_part(tensor.detach())) else part for tensor in tensors]
    return Shard(name, write_tensors(path.with_name(name), {"parts": parts}, step))


def with_shards(content: dict[str, Any], tensors: Sequence[Tensor], shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the content of a checkpoint, from :func:`without_sharded`, with what is needed to read its files.

    Args:
        content: the content.
        tensors: the sharded tensors.
        shards: the file of each process, in order.
    """
    kinds = [(list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for tensor in tensors]
    return {**content, SHARDS: {"files": [list(shard) for shard in shards], "tensors": kinds}}


def merged(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint with each tensor whole; as it is, if the checkpoint is one file alone.

    One of the other files is in memory at a time.

    Args:
        path: the file of the checkpoint, beside which the others are.
        content: what :func:`~diffsweep.tensor_files.read_tensors` has read of it.

    Raises:
        DamagedFile: another file is missing, damaged, or of another save.
    """
    if SHARDS not in content:
        return content
    kinds = content[SHARDS]["tensors"]
    whole = [torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in kinds]
    rows = [0] * len(whole)
    for shard in _shards(content):
        _check(path, shard)
        for number, part in enumerate(read_tensors(path.with_name(shard.name))["parts"]):
            whole[number][rows[number] : rows[number] + len(part)] = part
            rows[number] += len(part)

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            if NUMBER in value:
                return whole[value[NUMBER]]
            return {key: restored(part) for key, part in value.items()}
        return type(value)(map(restored, value)) if type(value) in (list, tuple) else value

    return {key: restored(value) for key, value in content.items() if key != SHARDS}


def files_of(path: Path) -> list[Path]:
    """Return the further files of a checkpoint, which is not damaged; none of one that is a single file.

    The weights in the checkpoint itself are not read.
    """
    return [path.with_name(shard.name) for shard in _shards(_lazily(path))]


def check_shards(path: Path) -> None:
    """Compare the content of a checkpoint's further files, if any, with their hashes; the checkpoint is not damaged.

    Raises:
        DamagedFile: a file is missing, damaged, or of another save.
    """
    for shard in _shards(_lazily(path)):
        _check(path, shard)
        check_hash(path.with_name(shard.name))


def remove_unused(folder: Path, checkpoints: Sequence[str]) -> None:
    """Delete the files of processes in a folder that belong to none of its checkpoints.

    Args:
        folder: the folder.
        checkpoints: the names that checkpoints in it can have.
    """
    if not (found := set(folder.glob(f"*{ENDING}"))):
        return
    for name in checkpoints:
        with contextlib.suppress(Exception):  # a damaged checkpoint has no use for its files
            found -= set(files_of(folder / name))
    for path in found:
        path.unlink(missing_ok=True)


def _shards(content: Any) -> list[Shard]:
    record = content.get(SHARDS) if isinstance(content, dict) else None
    return [] if record is None else [Shard(*file) for file in record["files"]]


def _lazily(path: Path) -> Any:
    """Return the content of a file of tensors, which are read from the disk where they are used, and not before."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):  # a former format, or a file of Python objects, which has no further files
        return None


def _check(path: Path, shard: Shard) -> None:
    """Raise a DamagedFile unless a file of a checkpoint exists and is of the same save, by the hash that it carries."""
    file = path.with_name(shard.name)
    if not file.is_file():
        raise DamagedFile(
            f"{path} is not whole: {file.name}, a part of it, is not beside it; copy that file from where it was saved"
        )
    if saved_hash(file) != shard.sha256:
        raise DamagedFile(f"{file} is damaged or of another save than {path.name}, of which it is a part")


def _is_view(part: Tensor) -> bool:
    """Return whether a tensor is a part of a larger storage, all of which ``torch.save`` would write."""
    return part.untyped_storage().nbytes() != part.numel() * part.element_size()
