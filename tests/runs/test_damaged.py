"""A changed byte in a checkpoint is an error that names it and offers another, and resuming goes on from that one."""

import os
import re
import shlex
import shutil

import pytest
import torch
from full_disk import fill

from diffsweep.callbacks.checkpoints import newest_whole, read_checkpoint
from diffsweep.configuration.loading import trained
from diffsweep.errors import UserError
from diffsweep.files import DiskFull
from diffsweep.runs.manifest import is_expected
from diffsweep.runs.training import train
from diffsweep.tensor_files import check_hash, saved_step, write_tensors


def flip(path, place=None):
    """Change one byte of a file, in the middle of it by default."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)
    return bytes(content)


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of four steps whose best checkpoint is of step 3."""
    directory = shutil.copytree(finished, tmp_path / "run")
    best = directory / "checkpoints" / "best.ckpt"
    write_tensors(best, {**read_checkpoint(best), "global_step": 3}, 3)
    return directory


@pytest.mark.parametrize("name", ["export", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sample", "evaluate"))])
def test_a_changed_byte_is_one_line_that_offers_the_best(run, tmp_path, command, name):
    flip(run / "checkpoints" / "last.ckpt")
    words = {
        "sample": ("num_samples=1",),
        "evaluate": ("likelihood=bound", "likelihood.num_samples=2"),
        "export": ("format=safetensors",),
    }[name]
    words = (f"run={run}", *words, f"output={tmp_path / 'out'}")
    done = command(name, *words)
    assert done.code == 2, done.out
    (line,) = done.err.splitlines()
    assert re.fullmatch(
        r"error: .*last\.ckpt is damaged: its content is not what was saved, by the SHA-256 that it carries; "
        r"checkpoint=best takes that of step 3 in its place \(1 step lost\)",
        line,
    )
    assert not (tmp_path / "out").exists()
    done = command(name, *words, "checkpoint=best")
    assert done.code == 0, done.err


def test_an_unknown_checkpoint_is_refused_by_name(finished, command):
    done = command("sample", f"run={finished}", "checkpoint=../last")
    assert done.code == 2
    assert done.err == "error: checkpoint=../last: it is one of last, best, previous\n"


def test_a_damaged_stage_offers_the_command_that_replaces_it(run):
    last = run / "checkpoints" / "last.ckpt"
    flip(last)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged") as error:
        trained(str(run))
    found = re.search(r"; (cp .*) takes that of step 3 in its place", str(error.value))[1]
    _, source, target = shlex.split(found)
    shutil.copyfile(source, target)
    assert trained(str(run)) is not None


def test_resuming_goes_on_from_the_newest_whole_one(run, resume, capfd, checkpoint):
    folder = run / "checkpoints"
    (folder / ".last.ckpt.abcd1234.tmp").write_bytes(b"left by a kill")
    shutil.copyfile(folder / "last.ckpt", folder / "previous.ckpt")
    torch.save(read_checkpoint(folder / "best.ckpt"), folder / "best.ckpt")  # of a former version: without a hash
    damaged = flip(folder / "last.ckpt")
    assert newest_whole(folder, folder / "last.ckpt") == (folder / "previous.ckpt", 4)
    flip(folder / "previous.ckpt", 1000)
    train(resume(run, "trainer.max_steps=5"))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "training goes on from best.ckpt of step 3 (1 step lost)" in line
    assert (folder / "last.damaged").read_bytes() == damaged
    assert checkpoint(run)["global_step"] == 5
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "best.ckpt", "last.damaged"}
    assert check_hash(folder / "last.ckpt")
    assert saved_step(folder / "last.ckpt") == 5


def test_a_run_without_a_whole_checkpoint_is_not_resumed(run, resume):
    folder = run / "checkpoints"
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:5000])
    flip(folder / "best.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read.*no other checkpoint in .* is whole"):
        train(resume(run))


@pytest.mark.parametrize(
    "content", [{"global_step": 4}, {"state_dict": {"a": 1}}, {"state_dict": {}, "ema": 3}, [1], {"state_dict": "x"}]
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(run, content):
    write_tensors(run / "checkpoints" / "last.ckpt", content)
    with pytest.raises(UserError, match=r"last\.ckpt is no checkpoint") as error:
        trained(str(run))
    assert "\n" not in str(error.value)


def test_a_full_disk_ends_training_with_one_line_and_whole_files(tmp_path, configure, monkeypatch, history, capfd):
    """The first checkpoint of step 2 stays, and metrics.csv has all rows."""
    saves = []
    fill(monkeypatch, lambda data: len(data) > 20_000 and len(saves) > 2)  # from the third checkpoint on
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (saves.append(b) if str(b).endswith("ckpt") else None, replace(a, b))
    )
    with pytest.raises(
        DiskFull, match=r"last\.ckpt cannot be written, the disk is full: it needs .* bytes are free"
    ) as e:
        train(configure(tmp_path / "run", "trainer.max_steps=6", "trainer.val_check_interval=2"))
    assert is_expected(e.value)
    folder = tmp_path / "run" / "checkpoints"
    assert len(saves) > 2
    assert all(check_hash(path) for path in folder.iterdir())
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert saved_step(folder / "last.ckpt") >= 2
    assert [int(row["step"]) for row in history(tmp_path / "run") if row["val/loss"]][-1] > saved_step(
        folder / "last.ckpt"
    )
