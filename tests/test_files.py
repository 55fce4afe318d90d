"""Files are written whole or not at all."""

import hashlib
import os
import stat

import pytest

from diffsweep.files import write_atomically, write_text


def test_a_file_has_its_content_and_its_hash_is_returned(tmp_path):
    content = os.urandom(3_000_000)
    digest = write_atomically(tmp_path / "a" / "b" / "file.bin", lambda file: file.write(content))
    assert (tmp_path / "a/b/file.bin").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()


def test_the_hash_is_that_of_the_file_also_if_the_writer_seeks(tmp_path):
    def write(file):
        file.write(b"xxxxx end")
        file.seek(0)
        file.write(b"start")

    digest = write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_bytes() == b"start end"
    assert digest == hashlib.sha256(b"start end").hexdigest()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "file", "old")

    def write(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", lambda file: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_the_old_file_remains_until_the_new_one_is_whole(tmp_path):
    write_text(tmp_path / "file", "old")
    seen = []
    write_atomically(tmp_path / "file", lambda file: (file.write(b"new"), seen.append((tmp_path / "file").read_text())))
    assert seen == ["old"]
    assert (tmp_path / "file").read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "file", "σ² ≤ 1")
    assert (tmp_path / "file").read_bytes() == "σ² ≤ 1".encode()
