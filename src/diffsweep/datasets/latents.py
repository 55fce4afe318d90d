"""Write an autoencoder's posteriors of a dataset to one file, and map that file into memory as training samples.

The file is in the safetensors format: the length of a JSON header (8 bytes, little endian), the header, the numbers. It
is written here, batch by batch, because the safetensors library writes only tensors that are whole in memory. The
header also holds all that the latents depend on, so a file cannot be mistaken for that of another autoencoder or
dataset.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffsweep.datasets.samples import Batch, Samples, rows_on
from diffsweep.files import ContentError, write_atomically

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[Dtype, tuple[str, str]] = {
    "float32": ("F32", "<f4"),
    "float16": ("F16", "<f2"),
    "bfloat16": ("BF16", "<u2"),
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
NAME = "posterior"
LONGEST = 100_000_000  # bytes: the safetensors library reads no longer header


class Latents(Samples):
    """A table of samples whose batches hold the autoencoder's stored ``posterior`` in place of the images ``x``.

    Args:
        posterior: the parameters of q(z | x), such as means and log-variances, (N, K, h, w); batches have it as
            float32.
        samples: the N samples that were encoded, in the same order. Their annotations are used, their images are never
            loaded.

    Raises:
        ValueError: ``posterior`` and ``samples`` differ in length.
    """

    def __init__(self, posterior: Tensor, samples: Samples) -> None:
        if len(posterior) != len(samples):
            raise ValueError(f"the latents are those of {len(posterior)} samples, but the split has {len(samples)}")
        self.posterior, self.samples = posterior, samples

    def __len__(self) -> int:
        return len(self.posterior)

    def part(self, name: str) -> Any:
        if name == "x":
            raise KeyError("x: these samples hold latents; take the images from the dataset's split()")
        return self.posterior.float() if name == NAME else self.samples.part(name)

    def rows(self, index: Tensor) -> Batch:
        return {NAME: rows_on(self.posterior, index).float(), **self.annotations(index)}

    def annotations(self, index: Tensor) -> Batch:
        return self.samples.annotations(index)

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all latents in their stored type."""
        return self.posterior.nbytes

    def to(self, device: torch.device) -> Samples:
        return Latents(self.posterior.to(device), self.samples)


def write_latents(
    path: str | Path,
    header: Mapping[str, Any],
    batches: Iterator[Tensor],
    count: int,
    dtype: Dtype = "float32",
    name: str = NAME,
) -> None:
    """Write the latents of a dataset to one safetensors file, batch by batch; a failed write leaves no partial file.

    Args:
        path: the file to write.
        header: all that the latents depend on, as plain values by name (the autoencoder's hash, the data's fingerprint,
            the split, ...); :func:`open_latents` compares it with what its caller expects.
        batches: the latents in order, tensors (B, K, h, w) on any device: K parameters of the posterior q(z | x), such
            as means and log-variances.
        count: number of rows of all batches together.
        dtype: the stored type. float16 holds values below 65,504 to a relative error of 5e-4, bfloat16 all values to
            4e-3.
        name: the name of the tensor in the file.

    Raises:
        ValueError: the batches have more or fewer than ``count`` rows, rows of different shapes, or values not finite
            in ``dtype``.
    """
    write_atomically(path, lambda file: _write(file, header, batches, count, dtype, name))


def _write(
    file: IO[bytes], header: Mapping[str, Any], batches: Iterator[Tensor], count: int, dtype: Dtype, name: str
) -> None:
    written, shape = 0, None
    for batch in batches:
        if shape is None:
            shape = batch.shape[1:]
            file.write(_header(header, (count, *shape), dtype, name))
        rows = batch.detach().to("cpu", getattr(torch, dtype)).contiguous()
        if rows.shape[1:] != shape:
            raise ValueError(f"latents have the shape {tuple(rows.shape[1:])} after others of shape {tuple(shape)}")
        if not torch.isfinite(rows).all():
            raise ValueError(f"latents are not finite in {dtype} in rows {written} to {written + len(rows) - 1}")
        file.write(rows.view(torch.uint8).numpy().tobytes())
        written += len(rows)
        if written > count:
            break
    if written != count:
        raise ValueError(f"{'more' if written > count else written} rows of latents were given, not {count}")


def _header(header: Mapping[str, Any], shape: tuple[int, ...], dtype: Dtype, name: str) -> bytes:
    size = BYTES[dtype] * int(np.prod(shape))
    tensors = {name: {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [0, size]}}
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in header.items()}
    content = json.dumps({"__metadata__": metadata, **tensors}).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def open_latents(path: str | Path, header: Mapping[str, Any], name: str = NAME) -> Tensor:
    """Return the latents of a file of :func:`write_latents`, (N, K, h, w), mapped into memory in their stored type.

    Only the rows that are used are read from the disk. Changes of the tensor do not reach the file.

    Args:
        path: the file.
        header: the header that it must have been written with, in all entries.
        name: the name of the tensor in the file; error messages name anything but the posteriors of latents by it.

    Raises:
        ContentError: the file is missing or of another kind, is cut short, or has another header; the message names the
            entry that differs.
    """
    written, entry, start = _read_header(Path(path), name)
    what = "latents" if name == NAME else name
    for key in {**header, **written}:
        theirs, ours = written.get(key), header.get(key)
        if theirs != json.loads(json.dumps(ours)):
            raise ContentError(
                f"{path} holds {what} of another {key} ({_shortened(theirs)}, this run has {_shortened(ours)}); "
                "delete it, and it is made again"
            )
    (dtype,) = (name for name, (kind, _) in DTYPES.items() if kind == entry["dtype"])
    shape = tuple(entry["shape"])
    if Path(path).stat().st_size != start + BYTES[dtype] * int(np.prod(shape)):
        raise ContentError(f"{path} is cut short; delete it, and it is made again")
    mapped = np.memmap(path, dtype=DTYPES[dtype][1], mode="c", offset=start, shape=shape)
    return torch.from_numpy(np.asarray(mapped)).view(getattr(torch, dtype))


def _read_header(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return the header given to :func:`write_latents`, the file's entry of the tensor, and the tensor's first byte."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST:
                raise ValueError("its header is too long")
            content = json.loads(file.read(length))
        written = {key: json.loads(value) for key, value in content["__metadata__"].items()}
        entry = content[name]
        if entry["dtype"] not in {kind for kind, _ in DTYPES.values()}:
            raise ValueError(f"its numbers have the type {entry['dtype']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContentError(
            f"{path} holds no readable {'latents' if name == NAME else name} ({type(error).__name__}: {error})"
        ) from error
    return written, entry, 8 + length


def _shortened(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
