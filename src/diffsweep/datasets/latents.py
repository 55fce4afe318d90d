"""Latents that are computed once: what an autoencoder says of each sample, in a file that is mapped into memory.

The file is in the safetensors format, written here row by row, since the library writes only what is whole in memory: the length of a
JSON header (8 bytes, little endian), the header, the numbers. So it is one file that is renamed as a whole, its identity cannot be
parted from it, and any reader of safetensors opens it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.base import Batch, Samples
from diffsweep.files import ContentError, write_atomically

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[Dtype, tuple[str, str]] = {
    "float32": ("F32", "<f4"),
    "float16": ("F16", "<f2"),
    "bfloat16": ("BF16", "<u2"),
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
NAME = "posterior"
LONGEST = 100_000_000  # bytes of a header that safetensors reads


class Latents(Samples):
    """Samples by what their autoencoder says of them, their posterior, in place of ``x``.

    Args:
        posterior: (N, K, h, w), as :func:`open_latents` maps it; a batch has its rows in float32.
        samples: those that it is of, in the same order, which tell everything else; their images are not touched.

    Raises:
        ValueError: there are not as many of one as of the other.
    """

    def __init__(self, posterior: Tensor, samples: Samples) -> None:
        if len(posterior) != len(samples):
            raise ValueError(f"there are latents of {len(posterior)} samples, and {len(samples)} samples")
        self.posterior, self.samples = posterior, samples

    def __len__(self) -> int:
        return len(self.posterior)

    def part(self, name: str) -> Any:
        if name == "x":
            raise KeyError("x: these samples are latents; their images are those of the data's split")
        return self.posterior.float() if name == NAME else self.samples.part(name)

    def rows(self, index: Tensor) -> Batch:
        return {NAME: self.posterior.index_select(0, index).float(), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(index)


def write_latents(
    path: str | Path, header: Mapping[str, Any], batches: Iterator[Tensor], count: int, dtype: Dtype = "float32"
) -> None:
    """Write latents, batch by batch; the file is whole or absent.

    Args:
        path: of the file.
        header: all that the latents depend on, plain values by name (the autoencoder's hash, the data's fingerprint, the split, ...).
        batches: tensors (B, K, h, w) on any device, one after the other.
        count: rows of all of them.
        dtype: that they are kept in. float16 keeps values below 65,504 to 5e-4 of their size, bfloat16 all to 4e-3.

    Raises:
        ValueError: there are more or fewer rows than ``count``, rows of different shapes, or values that are not finite in ``dtype``.
    """
    write_atomically(path, lambda file: _write(file, header, batches, count, dtype))


def _write(file: IO[bytes], header: Mapping[str, Any], batches: Iterator[Tensor], count: int, dtype: Dtype) -> None:
    written, shape = 0, None
    for batch in batches:
        if shape is None:
            shape = batch.shape[1:]
            file.write(_header(header, (count, *shape), dtype))
        rows = batch.detach().to("cpu", getattr(torch, dtype)).contiguous()
        if rows.shape[1:] != shape:
            raise ValueError(f"latents of shape {tuple(rows.shape[1:])} after others of shape {tuple(shape)}")
        if not torch.isfinite(rows).all():
            raise ValueError(f"latents that are not finite in {dtype} in rows {written} to {written + len(rows) - 1}")
        file.write(rows.view(torch.uint8).numpy().tobytes())
        written += len(rows)
        if written > count:
            break
    if written != count:
        raise ValueError(f"latents of {'more' if written > count else written} than {count} samples, not of {count}")


def _header(header: Mapping[str, Any], shape: tuple[int, ...], dtype: Dtype) -> bytes:
    size = BYTES[dtype] * int(np.prod(shape))
    tensors = {NAME: {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [0, size]}}
    told = {key: json.dumps(value, sort_keys=True) for key, value in header.items()}
    content = json.dumps({"__metadata__": told, **tensors}).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def open_latents(path: str | Path, header: Mapping[str, Any]) -> Tensor:
    """Latents mapped from a file, (N, K, h, w), in the type that they are kept in; what is not asked for is not read.

    Args:
        path: of a file that :func:`write_latents` wrote.
        header: what it must have been written with.

    Raises:
        ContentError: it is no such file, is cut short, or is of another header; the message names what differs.
    """
    told, entry, start = _read_header(Path(path))
    for key in {**header, **told}:
        theirs, ours = told.get(key), header.get(key)
        if theirs != json.loads(json.dumps(ours)):
            raise ContentError(
                f"{path} holds latents of another {key} ({_told(theirs)}, this run has {_told(ours)}); delete it, and it is made again"
            )
    (dtype,) = (name for name, (kind, _) in DTYPES.items() if kind == entry["dtype"])
    shape = tuple(entry["shape"])
    if Path(path).stat().st_size != start + BYTES[dtype] * int(np.prod(shape)):
        raise ContentError(f"{path} is cut short; delete it, and it is made again")
    mapped = np.memmap(path, dtype=DTYPES[dtype][1], mode="c", offset=start, shape=shape)
    return torch.from_numpy(np.asarray(mapped)).view(getattr(torch, dtype))


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Of a file: what it was written with, the entry of its tensor, where that begins."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST:
                raise ValueError("its header is too long")
            content = json.loads(file.read(length))
        told = {key: json.loads(value) for key, value in content["__metadata__"].items()}
        entry = content[NAME]
        if entry["dtype"] not in {kind for kind, _ in DTYPES.values()}:
            raise ValueError(f"numbers of type {entry['dtype']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContentError(f"{path} holds no latents that can be read ({type(error).__name__}: {error})") from error
    return told, entry, 8 + length


def _told(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
