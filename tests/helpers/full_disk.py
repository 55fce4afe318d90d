"""A disk that has no more space: files that refuse what is written to them."""

import errno
import os


class FullDisk:
    """A file on a disk that may be full.

    Args:
        file: the open file.
        is_full: called with the bytes to be written; whether the disk has no space for them.
    """

    def __init__(self, file, is_full):
        self.file, self.is_full = file, is_full

    def write(self, data):
        if self.is_full(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def fill(monkeypatch, is_full):
    """Let files that are written whole or not at all be on a disk that is full where ``is_full(data)``."""
    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *arguments: FullDisk(opened(*arguments), is_full))


def with_space(count):
    """Return an ``is_full`` of a disk that has space for some bytes of all files together."""
    left = [count]

    def is_full(data):
        left[0] -= len(data)
        return left[0] < 0

    return is_full
