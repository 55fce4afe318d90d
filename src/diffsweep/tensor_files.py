"""Files of tensors that carry a hash of their content, written whole, and read without executing anything in them.

Such a file is a zip archive of ``torch.save`` with the comment ``diffsweep step 1000 sha256 HASH``, where HASH is the
SHA-256 of all bytes before it. Other programs read it by ``torch.load`` as any other, and ``unzip -z`` shows the
comment. The hash is in the file, so that a copy has it too and no kill can separate the two.
"""

import hashlib
import importlib
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from diffsweep.errors import UserError, line_of
from diffsweep.files import whole_file

COMMENT = re.compile(rb"diffsweep step (\d+|-) sha256 ([0-9a-f]{64})\Z")
LONGEST = 128  # bytes: no comment is longer
ZIP = b"PK"
END, END_SIZE = b"PK\x05\x06", 22  # the last record of a zip archive; its last two bytes are the comment's length
PICKLE = b"\x80"  # the first byte of a plain pickle


class DamagedFile(UserError):  # noqa: N818 - names an outcome
    """The error that the content of a file is not what was saved, or cannot be read; the message names the file."""


class UnsafeFile(UserError):  # noqa: N818 - names an outcome
    """The error that a file has Python objects beside tensors, which reading would execute; nothing was executed.

    Attributes:
        objects: the full names of their classes and functions, as far as they are known.
    """

    def __init__(self, message: str, objects: list[str]) -> None:
        super().__init__(message)
        self.objects = objects


def write_tensors(path: str | Path, content: Any, step: int | None = None) -> str:
    """Write tensors and plain types in one file with a hash of its content, whole or not at all.

    The hash is computed while the file is written.

    Args:
        path: the file; its folder is created.
        content: tensors, texts, numbers and containers of them, as for ``torch.save``.
        step: the optimizer step that the content belongs to, which the file's comment gets; None for none.

    Returns:
        The hash, in hexadecimal.

    Raises:
        DiskFull: the file does not fit on the disk, with the bytes that it needs.
    """
    with whole_file(path, lambda: _size(content)) as file:
        stream = _HashingStream(file)
        try:
            torch.save(content, cast(IO[bytes], stream))
        except Exception:
            if stream.error is not None:  # torch wraps the error of the file in others of its own
                raise stream.error from None
            raise
        return stream.finish(step)


def read_tensors(path: str | Path, shown: str | None = None) -> Any:
    """Return the content of a file of ``torch.save`` or safetensors, on the CPU; nothing in it is executed.

    If the file has a hash, as those of :func:`write_tensors`, its content is compared with the hash first.

    Args:
        path: the file; one whose name ends in ``.safetensors`` is read by that package.
        shown: how messages name the file, such as ``weights=FILE``; None for its path.

    Raises:
        UserError: the file does not exist, or needs the package safetensors, which is not installed.
        DamagedFile: its content is not what was saved, or is of neither form.
        UnsafeFile: it has Python objects beside tensors.
    """
    name = str(path) if shown is None else shown
    if not Path(path).is_file():
        raise UserError(f"{name}: no such file")
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(path, name)
    check_hash(path, name)
    try:
        with warnings.catch_warnings():  # of other protocols of pickle, which are refused below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        objects = _objects_beside_tensors(Path(path), str(error))
        if objects is None:
            raise DamagedFile(f"{name} cannot be read: it is damaged, cut short or no file of torch.save") from None
        what = f" ({', '.join(objects[:3])})" if objects else ""
        message = f"{name} cannot be read: it has Python objects beside tensors{what}, and code of a file is never run"
        raise UnsafeFile(message, objects) from None


def _read_safetensors(path: str | Path, name: str) -> dict[str, torch.Tensor]:
    try:
        return dict(importlib.import_module("safetensors.torch").load_file(path, device="cpu"))
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs the package safetensors: pip install safetensors") from error
    except Exception as error:
        raise DamagedFile(f"{name} cannot be read: it is no file of safetensors ({line_of(error)})") from error


def check_hash(path: str | Path, shown: str | None = None) -> bool:
    """Compare the content of a file with the hash that it carries, and return whether it carries one.

    Files of other programs, and those of former versions, carry none.

    Args:
        path: the file.
        shown: how messages name the file; None for its path.

    Raises:
        DamagedFile: the content is not what was saved; of a file without a hash, the end of the archive is missing.
    """
    name = str(path) if shown is None else shown
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LONGEST))
        end = file.read()
        file.seek(0)
        found = COMMENT.search(end)
        if found is None:
            is_plain = end[-END_SIZE:].startswith(END) and end.endswith(b"\0\0")
            if file.read(len(ZIP)) == ZIP and not is_plain:
                raise DamagedFile(f"{name} cannot be read: it is damaged or cut short, since its end is missing")
            return False
        left = size - len(found[2])
        while left:
            block = file.read(min(left, 1 << 20))
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != found[2]:
        raise DamagedFile(f"{name} is damaged: its content is not what was saved, by the SHA-256 that it carries")
    return True


def saved_step(path: str | Path) -> int | None:
    """Return the optimizer step in the comment of a file of :func:`write_tensors`; None if it has none.

    Whether the file is damaged is not checked.
    """
    found = _comment(path)
    return None if found is None or found[1] == b"-" else int(found[1])


def saved_hash(path: str | Path) -> str | None:
    """Return the hash in the comment of a file of :func:`write_tensors`; None if it has none.

    Whether the file is damaged is not checked.
    """
    found = _comment(path)
    return None if found is None else found[2].decode()


def _comment(path: str | Path) -> re.Match[bytes] | None:
    """Return the comment at the end of a file."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - LONGEST))
        return COMMENT.search(file.read())


class _HashingStream:
    """A stream that ``torch.save`` writes a zip archive into, which goes to a file and is hashed on the way.

    The last record of the archive is held back until :meth:`finish`, since it has the length of the comment.

    Args:
        file: the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.end = file, hashlib.sha256(), b""
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= END_SIZE:
            self._put(self.end)
            self._put(view[:-END_SIZE])
            self.end = bytes(view[-END_SIZE:])
        else:
            whole = self.end + bytes(view)
            self._put(whole[:-END_SIZE])
            self.end = whole[-END_SIZE:]
        return len(view)

    def flush(self) -> None:
        """Do nothing: the file is flushed when all is written."""

    def finish(self, step: int | None) -> str:
        """Write the last record and the comment, and return the hash."""
        comment = f"diffsweep step {'-' if step is None else step} sha256 ".encode()
        length = struct.pack("<H", len(comment) + 2 * self.digest.digest_size)
        self._put(self.end[:-2] + length + comment)
        hexadecimal = self.digest.hexdigest()
        self.file.write(hexadecimal.encode())
        return hexadecimal

    def _put(self, data: bytes | memoryview) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)


class _Counter:
    """A stream that counts the bytes written into it."""

    count = 0

    def write(self, data: bytes | memoryview) -> int:
        self.count += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing."""


def _size(content: Any) -> int:
    """Return the bytes that a file of some content has, without its comment."""
    counter = _Counter()
    torch.save(content, cast(IO[bytes], counter))
    return counter.count


def _objects_beside_tensors(path: Path, message: str) -> list[str] | None:
    """Return the names of the classes and functions that a file would import and torch refuses; None if it has none.

    Args:
        path: the file, of which nothing is executed.
        message: that of torch's error.
    """
    refused = [name for name in re.findall(r"GLOBAL ([\w.]+)", message) if not name.startswith("_")]
    try:
        named = list(_imports(path))
    except Exception:  # no pickle
        named = []
    tensors = ("torch._utils.", "torch._tensor.", "torch.storage.", "collections.OrderedDict")
    foreign = [
        name
        for name in dict.fromkeys([*refused, *named])
        if not name.startswith(tensors) and not re.fullmatch(r"torch\.\w*(Storage|Size)", name)
    ]
    return [name for name in foreign if re.fullmatch(r"[\w.]{1,80}", name, re.ASCII)] if foreign else None


def _imports(path: Path) -> Iterator[str]:
    """Yield the full names that the pickle in a file imports, without executing it."""
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(0)
        if first == PICKLE:
            yield from _named_in(file)
            return
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    with archive.open(member) as stream:
                        yield from _named_in(stream)


def _named_in(stream: IO[bytes]) -> Iterator[str]:
    """Yield the full names in the opcodes of a pickle."""
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
