"""Files that are written whole or not at all, identified by their content, and made by one process at a time."""

import errno
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

WHOLE = 1 << 26  # bytes that are read of all files together to identify their content
BLOCK = 1 << 16
TEMPORARY = ".tmp"
FULL = {  # what these errors of the operating system mean
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "it is larger than a file may be here (ulimit -f)",
}

# what numpy.load raises for a file that is damaged, has pickled objects, or is none of arrays
UNREADABLE_ARRAYS = (
    *(OSError, ValueError, EOFError, AttributeError, TypeError, KeyError, MemoryError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, SyntaxError),
)


class DiskFull(OSError):  # noqa: N818 - names an outcome
    """The error that a file does not fit on its disk; the message names it, and the bytes needed and free."""


class ContentError(ValueError):
    """The error of a file without the expected content; the message names the file and what it contains."""


@contextmanager
def whole_file(path: str | Path, needed: Callable[[], int] | None = None) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of ``path`` at the end of the context, whole or not at all.

    The bytes go to a temporary file beside the target, which is flushed to the disk and renamed over the target. If the
    context is left by an error, the temporary file is deleted and the target stays as it was. A kill leaves the
    temporary file, which :func:`remove_leftovers` deletes.

    Args:
        path: the target; its folder is created.
        needed: returns the size of the file in bytes, for the message if the disk is full; None if it is unknown.

    Raises:
        DiskFull: the file does not fit on the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise _disk_full(path, FULL[error.errno], needed) from None
        raise
    if os.name == "posix":  # the rename itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _disk_full(path: Path, why: str, needed: Callable[[], int] | None) -> DiskFull:
    """Return the error of a file that does not fit, with the bytes that it needs and those that are free."""
    free = shutil.disk_usage(path.parent).free
    size = f"it needs {needed():,} bytes, and" if needed is not None else "on its disk"
    before = "; the old file is kept" if path.exists() else ""
    return DiskFull(f"{path} cannot be written, {why}: {size} {free:,} bytes are free{before}")


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> str:
    """Write a file so that a crash, a kill or a full disk leaves the old file or the new one, never a part of it.

    If ``write`` raises an error, the old file stays and the error goes on: see :func:`whole_file`.

    Args:
        path: the target; its folder is created.
        write: writes the content, called with the temporary file opened for binary writing.

    Returns:
        The SHA-256 of the content, in hexadecimal.

    Raises:
        DiskFull: the file does not fit on the disk.
    """
    digest = hashlib.sha256()
    with whole_file(path) as file:
        write(file)
        file.seek(0)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_end(path: Path, begin: int, content: bytes, sync: bool = False) -> None:
    """Replace what a file has from a position on, without writing the rest of it anew.

    The old end is cut before the new one is written, so that a kill leaves a beginning of the new one in its place. If
    the disk is full, the old end is put back.

    Args:
        path: the file, which exists.
        begin: the position, in bytes from the start of the file.
        content: what the file has from that position on.
        sync: whether the file is on the disk when the function returns.

    Raises:
        DiskFull: the new end does not fit on the disk.
    """
    with os.fdopen(os.open(path, os.O_RDWR), "r+b", 0) as file:
        file.seek(begin)
        old = file.read()
        try:
            _put(file, begin, content)
        except OSError as error:
            _put(file, begin, old)
            if error.errno in FULL:
                raise _disk_full(path, FULL[error.errno], lambda: begin + len(content)) from None
            raise
        if sync:
            os.fsync(file.fileno())


def _put(file: IO[bytes], begin: int, content: bytes) -> None:
    file.truncate(begin)
    file.seek(begin)
    while content:
        content = content[file.write(content) :]


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of :func:`whole_file` that a killed process has left in a folder.

    Nobody else may be writing files into the folder; its subfolders are left alone.
    """
    for path in folder.glob(f".?*.????????{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextmanager
def alone(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock within a context, so that only one process at a time runs it; the others wait without a limit.

    The lock is the operating system's, so it does not outlive its process.

    Args:
        path: the file of the lock.
        waiting: the message that a process prints if it has to wait.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time, without waiting for it.

    The lock is the operating system's (``flock``): it ends with its process, whatever ends that. On a network file
    system it holds between machines as far as the file system passes locks on, as NFS 3 with a lock service, NFS 4 and
    Lustre with ``-o flock`` do; where it does not, only processes of one machine exclude each other. A file system that
    has no locks at all gets a lock file that holds the process and its machine in place of the lock.

    Args:
        path: the file of the lock, which exists as long as the lock is held.

    Raises:
        BlockingIOError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    try:
        yield
    finally:
        if os.name == "posix":
            path.unlink(missing_ok=True)  # while nobody else can hold it
        lock.release()


def in_use(path: Path) -> bool:
    """Return whether some process holds the lock of a file; False if the file does not exist."""
    if not path.is_file():
        return False
    try:
        with FileLock(path).acquire(blocking=False):
            return False
    except (Timeout, OSError):
        return True


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Make a file if it does not exist: one process calls ``make`` while other processes that need the file wait.

    Args:
        path: the file; its folder is created.
        make: writes the file ``path``, by :func:`write_atomically` or another way that leaves no part of it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(Path(f"{path}.lock"), f"waits for {path}, which another run is making"):
            if not path.exists():
                make()


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; a pipe, a socket or a device, which may never end, is not opened.

    Raises:
        OSError: the file does not exist, is not regular or cannot be read; ``strerror`` is the reason in a few words.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def size_of(path: Path) -> int | None:
    """Return the size of a regular file that may be read, in bytes; None for anything else."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK) else None


def content_hash(files: Sequence[Path]) -> str:
    """Return a SHA-256, in hexadecimal, of the sizes and contents of files in the given order, without their names.

    Of a file larger than 64 MiB divided by the number of files only evenly spaced blocks of 64 KiB are read. So a
    change between the blocks that keeps the size is not noticed.
    """
    most = max(BLOCK, WHOLE // max(1, len(files)))
    states = [(file, file.stat()) for file in files]
    hashes = [_hash(str(file), state.st_size, state.st_mtime_ns, most) for file, state in states]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)  # a run computes a fingerprint some ten times, each reading up to a gigabyte
def _hash(path: str, size: int, changed: int, most: int) -> str:
    """Return a hash of a file's size and content, which a process reads once per time of change ``changed``."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    count = -(-most // BLOCK)  # blocks of a large file, from its start to its end
    starts = range(0, size, BLOCK) if size <= most else [n * (size - BLOCK) // max(1, count - 1) for n in range(count)]
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> str:
    """Write a text file in UTF-8 atomically, see :func:`write_atomically`, and return the SHA-256 of its content."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
