"""Checkpoints are plain and whole, and a run keeps its last and its best."""

import os
import shutil
from collections import OrderedDict

import pytest
import torch

from diffsweep.callbacks import LossIsNaN
from diffsweep.callbacks.checkpoints import AtomicCheckpoints, read_checkpoint
from diffsweep.errors import UserError
from diffsweep.models import DiffusionModel
from diffsweep.runs.training import train


def types(value):
    yield type(value)
    if isinstance(value, dict):
        for key, part in value.items():
            yield from (type(key), *types(part))
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from types(part)


@pytest.mark.parametrize("name", ["last", "best"])
def test_checkpoints_hold_plain_types_only(finished, checkpoint, name):
    found = set(types(checkpoint(finished, name)))  # under weights_only=True
    assert found <= {dict, OrderedDict, list, tuple, str, int, float, bool, type(None), torch.Tensor}


def test_no_temporary_file_remains(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert names == {"config.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}


def test_last_is_the_last_step_and_best_the_lowest_validation_loss(
    tmp_path, configure, checkpoint, history, monkeypatch
):
    """After the validation losses 3, 1 and 2, the second is the best."""
    losses = iter([3.0, 1.0, 2.0])

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.log("val/loss", next(losses), on_epoch=True)

    monkeypatch.setattr(DiffusionModel, "validation_step", validation_step)
    result = train(configure(tmp_path / "run", "trainer.max_steps=7"))
    assert [row["val/loss"] for row in history(tmp_path / "run") if row["val/loss"]] == ["3", "1", "2"]
    assert checkpoint(tmp_path / "run", "best")["global_step"] == 4
    assert checkpoint(tmp_path / "run", "last")["global_step"] == 7
    assert result == 2.0


def test_a_writer_that_fails_midway_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    writer, path = AtomicCheckpoints(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"step": 1}, path)

    def half(checkpoint, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        writer.save_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_training_saves_through_the_atomic_writer_only(tmp_path, configure, monkeypatch):
    """Every save of a run writes a temporary file beside its target."""
    original, places = torch.save, []

    def save(content, file, *arguments, **keywords):
        places.append(isinstance(file, str | os.PathLike))
        return original(content, file, *arguments, **keywords)

    replaced, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (replaced.append((str(a), str(b))), replace(a, b)))
    monkeypatch.setattr(torch, "save", save)
    train(configure(tmp_path / "run"))
    saved = [b for a, b in replaced if b.endswith(".ckpt")]
    assert len(saved) == len(places) > 0
    assert not any(places)
    folder = str(tmp_path / "run" / "checkpoints")
    assert all(a.startswith(folder) for a, b in replaced if b.endswith(".ckpt"))


def test_reading_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_a_missing_checkpoint_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at .*last\.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_directory_with_a_run_is_not_overwritten(finished, tmp_path, configure):
    directory = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"has a run already; use resume="):
        train(configure(directory, "seed=1"))
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_diverged_run_raises_and_saves_no_nan(tmp_path, configure, log_every):
    """The loss is checked at each log, or first when the checkpoint is saved."""
    cfg = configure(
        tmp_path / "run",
        "optimizer.lr=1e30",
        "lr_scheduler.warmup_steps=0",
        "trainer.gradient_clip_val=null",
        "trainer.val_check_interval=1",
        f"trainer.log_every_n_steps={log_every}",
    )
    with pytest.raises(LossIsNaN, match=r"NaN or infinite.*optimizer\.lr"):
        train(cfg)
    for path in (tmp_path / "run" / "checkpoints").glob("*"):
        weights = torch.load(path, weights_only=True)
        parts = {**weights["state_dict"], **weights["ema"]["weights"]}
        assert all(torch.isfinite(part).all() for part in parts.values()), path


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_loss_leaves_the_checkpoint_before_it(tmp_path, configure, checkpoint, monkeypatch, bad):
    original = DiffusionModel.training_step

    def training_step(self, *arguments):
        loss = original(self, *arguments)
        return loss * bad if self.global_step == 3 else loss

    monkeypatch.setattr(DiffusionModel, "training_step", training_step)
    with pytest.raises(LossIsNaN):
        train(configure(tmp_path / "run"))
    for name in ("last", "best"):
        saved = checkpoint(tmp_path / "run", name)
        assert saved["global_step"] == 2
        assert all(torch.isfinite(weight).all() for weight in saved["state_dict"].values())


def test_a_diverged_run_is_one_line_and_exit_code_1(command, fast):
    done = command("train", *fast, "optimizer.lr=1e30", "lr_scheduler.warmup_steps=0")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "NaN" in line
    assert "Traceback" not in done.err
