"""Files of tensors carry a hash: a changed byte, a torn end and a foreign object are each refused in one line."""

import os
import pickle
import random
import signal
import time
import zipfile

import pytest
import torch
from full_disk import fill, with_space

from diffsweep.callbacks.checkpoints import LAST, PREVIOUS, AtomicCheckpoints, newest_whole, read_checkpoint
from diffsweep.errors import UserError
from diffsweep.files import DiskFull, remove_leftovers
from diffsweep.tensor_files import (
    DamagedFile,
    UnsafeFile,
    check_hash,
    read_tensors,
    saved_step,
    write_tensors,
)


def content(step=3, size=40):
    numbers = torch.arange(float(size)) + step
    return {"global_step": step, "state_dict": {"a": numbers, "b": numbers.to(torch.bfloat16)}, "name": "é", "n": None}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found["state_dict"][key], wanted["state_dict"][key]) for key in "ab")
    assert {key: found[key] for key in ("global_step", "name", "n")} == {
        key: wanted[key] for key in ("global_step", "name", "n")
    }


@pytest.fixture
def saved(tmp_path):
    """A small file with a hash."""
    write_tensors(tmp_path / "a.ckpt", content(), 3)
    return tmp_path / "a.ckpt"


def refused(path, kind=UserError):
    with pytest.raises(kind) as error:
        read_tensors(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("size", [0, 1, 5, 40, 300_000])
def test_what_was_saved_is_read_here_and_by_torch_alone(tmp_path, size):
    path, wanted = tmp_path / "a.ckpt", content(1000, size)
    digest = write_tensors(path, wanted, 1000)
    assert_same(read_tensors(path), wanted)
    assert_same(torch.load(path, weights_only=True), wanted)
    assert_same(torch.load(path, weights_only=True, mmap=True), wanted)
    with zipfile.ZipFile(path) as archive:
        assert archive.comment.decode() == f"diffsweep step 1000 sha256 {digest}"
        assert archive.testzip() is None
    assert saved_step(path) == 1000
    assert check_hash(path)


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_one_changed_byte_anywhere_is_an_error(saved, every, tried):
    """The bytes of a small file, each in one bit: of the archive, and all of its comment with the hash itself."""
    whole = saved.read_bytes()
    places = [*range(0, len(whole), every), *range(len(whole) - 110, len(whole))]
    tried(inputs=len(places))
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        saved.write_bytes(changed)
        with pytest.raises(DamagedFile, match=r"a\.ckpt"):
            check_hash(saved)


@pytest.mark.parametrize("count", [8, pytest.param(170, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["truncation", "flip", "appended"])
def test_a_damaged_file_is_refused_in_one_line(saved, kind, count, tried):
    """Random places of each kind; 510 in the slow suite."""
    tried(inputs=count)
    whole, chance = saved.read_bytes(), random.Random(kind)
    for _ in range(count):
        place, noise = chance.randrange(len(whole)), chance.randbytes(chance.randrange(1, 40))
        saved.write_bytes(
            {
                "truncation": whole[:place],
                "flip": whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :],
                "appended": whole + noise,
            }[kind]
        )
        refused(saved, DamagedFile)


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_without_a_hash_is_read_as_before(tmp_path, form, count, tried):
    """A changed byte of one is no crash: it is read or refused in one line."""
    tried(inputs=2 * count)
    path = tmp_path / "old.ckpt"
    torch.save(content(), path, _use_new_zipfile_serialization=form == "zip")
    assert not check_hash(path)
    assert saved_step(path) is None
    assert_same(read_tensors(path), content())
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(count):
        place = chance.randrange(len(whole))
        path.write_bytes(whole[:place])
        refused(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            read_tensors(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right


class Malicious:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "hashed", "pickle 0"])
def test_nothing_in_a_file_is_executed(tmp_path, form, recwarn):
    path, evil = tmp_path / "a.ckpt", {"state_dict": Malicious(tmp_path / "made")}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(evil, 0 if form.endswith("0") else None))
    elif form == "hashed":
        write_tensors(path, evil)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(path)
    if form in ("zip", "hashed", "pickle"):
        refused(path, UnsafeFile)
        assert "mkdir" in message
    assert not (tmp_path / "made").exists()
    assert not recwarn.list  # the message is the only line


@pytest.mark.parametrize("space", [0, 100, 5000, 395_000])
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path, monkeypatch, space):
    writer, path = AtomicCheckpoints(), tmp_path / LAST
    writer.save_checkpoint(content(1), path)
    fill(monkeypatch, with_space(space))
    with pytest.raises(DiskFull) as error:
        writer.save_checkpoint(content(2, 66_000), path)
    monkeypatch.undo()
    assert_same(read_checkpoint(path), content(1))
    assert {file.name for file in tmp_path.iterdir()} <= {LAST, PREVIOUS}
    message = str(error.value)
    assert message.startswith(f"{path} cannot be written, the disk is full: it needs 39")
    assert "bytes are free; the old file is kept" in message
    assert "\n" not in message


def test_a_limit_of_the_size_of_files_is_named(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"ulimit -f"):
            write_tensors(tmp_path / "a.ckpt", content(0, 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    writer = AtomicCheckpoints()
    for step in (1, 2, 3):
        writer.save_checkpoint(content(step), tmp_path / LAST)
    assert [saved_step(tmp_path / name) for name in (LAST, PREVIOUS)] == [3, 2]
    assert newest_whole(tmp_path, tmp_path / LAST) == (tmp_path / PREVIOUS, 2)


def save_without_end(folder, first, saved):
    """Save checkpoints until the process is killed, and write a byte into a pipe after each."""
    writer, step = AtomicCheckpoints(), first
    while True:
        step += 1
        writer.save_checkpoint(content(step, 20_000), folder / LAST)
        os.write(saved, b".")


def test_a_kill_while_saving_leaves_whole_files(tmp_path, monkeypatch, tried):
    """SIGKILL at random moments, with temporary files of the system on another file system."""
    kills(tmp_path, monkeypatch, 3, tried)


@pytest.mark.slow
def test_fifty_kills_while_saving_leave_whole_files(tmp_path, monkeypatch, tried):
    kills(tmp_path, monkeypatch, 50, tried)


def kills(folder, monkeypatch, count, tried):
    elsewhere = folder / "tmpdir"
    elsewhere.mkdir()
    if os.path.isdir("/dev/shm"):  # a file system in memory
        elsewhere = "/dev/shm"
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    before, newest, chance, leftovers = set(os.listdir(elsewhere)), 0, random.Random(0), 0
    run = folder / "run"
    AtomicCheckpoints().save_checkpoint(content(0, 20_000), run / LAST)
    for _ in range(count):
        acknowledged, saved = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_without_end(run, newest, saved)
            finally:
                os._exit(1)
        os.close(saved)
        assert os.read(acknowledged, 1) == b"."  # the first is saved
        time.sleep(0.03 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        committed = newest + 1 + len(os.read(acknowledged, 1 << 16))  # steps whose saving had returned
        os.close(acknowledged)
        kept = check_hash(run / LAST) and saved_step(run / LAST) >= committed
        tried(kills=1, bytes_lost=0 if kept else (run / LAST).stat().st_size)
        found = read_checkpoint(run / LAST)
        assert found["global_step"] >= committed > newest
        assert_same(found, content(found["global_step"], 20_000))
        newest = found["global_step"]
        for name in (LAST, PREVIOUS):  # a file under a final name is whole
            assert not (run / name).exists() or check_hash(run / name)
        leftovers += sum(path.name.endswith(".tmp") for path in run.iterdir())
        remove_leftovers(run)
        assert {path.name for path in run.iterdir()} <= {LAST, PREVIOUS}
    assert newest >= count
    assert count < 50 or leftovers > 0  # some kills came while a file was written
    assert not {name for name in set(os.listdir(elsewhere)) - before if "ckpt" in name}
