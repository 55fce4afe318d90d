"""A run whose weights are sharded over two processes equals one of a single process, and each goes on as the other.

The process has twice the batch. Gradients are accumulated and clipped, weights averaged, times drawn by importance.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from keyed_runs import SPEED, STEPS
from keyed_runs import WORDS as KEYED

from diffsweep.callbacks.checkpoints import read_checkpoint
from diffsweep.callbacks.shards import files_of
from diffsweep.runs.training import train

SRC = Path(__file__).resolve().parents[2] / "src"
WORDS = (*KEYED, "trainer.accumulate_grad_batches=2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launch(environment, fast):
    """``launch(cwd, *words)`` trains in processes of their own."""

    def launch(cwd, *words):
        line = [sys.executable, SRC / "train.py", *words]
        done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return launch


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configure, launch, fast):
    """The directories of two runs of six steps: of two processes, and of one with twice the batch."""
    folder = tmp_path_factory.mktemp("runs")
    two = ("trainer=fsdp", "trainer.accelerator=cpu", "dataset.batch_size=8", f"paths.output_dir={folder / 'a'}")
    launch(folder, *fast, *WORDS, STEPS, *two, f"paths.run_dir={folder / 'two'}")
    train(configure(folder / "one", *WORDS, STEPS, "dataset.batch_size=16"))
    return folder / "two", folder / "one"


def test_each_step_and_each_validation_has_the_same_numbers(runs, history):
    two, one = (history(run) for run in runs)
    assert [row["step"] for row in two] == [str(step) for step in range(1, 7)]
    assert {name for row in one for name, value in row.items() if value} >= {"train/grad_norm", "val/x0_mse"}
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - SPEED:
            assert bool(ours[name]) == bool(theirs[name]), name
            if ours[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5, abs=1e-7), (ours["step"], name)


@pytest.mark.parametrize("name", ["last", "best"])
def test_merged_checkpoints_are_those_of_one_process(name, runs):
    two, one = (read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for run in runs)
    assert (two["position"], two["global_step"]) == (one["position"], one["global_step"])
    assert two.keys() == one.keys()
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(two["ema"], one["ema"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(two["optimizer_states"], one["optimizer_states"], rtol=1e-3, atol=1e-6)
    counts = two["state_dict"]["time_sampling.counts"]
    assert torch.equal(counts, one["state_dict"]["time_sampling.counts"])


def test_each_process_has_written_half_and_one_run_is_made(runs):
    two, one = runs
    folder = two / "checkpoints"
    kept = {file for name in ("last", "best") for file in files_of(folder / f"{name}.ckpt")}
    assert {path for path in folder.iterdir() if path.suffix == ".shard"} == kept
    assert len(kept) == 4
    sizes = [file.stat().st_size for file in files_of(folder / "last.ckpt")]
    whole = (one / "checkpoints" / "last.ckpt").stat().st_size
    assert all(size < 0.6 * whole for size in sizes)
    files = [
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path not in kept} for run in runs
    ]
    assert files[0] == files[1]
    assert not (two.parent / "a" / "train").exists()


def test_samples_and_metrics_are_the_same(runs, tmp_path, command):
    import numpy as np

    measured = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert measured[0]["protocol_id"] == measured[1]["protocol_id"]
    drawn = []
    for run in runs:
        for name in ("last", "best"):
            out = tmp_path / run.name / name
            words = (f"run={run}", f"checkpoint={name}", "num_samples=6", "seed=3", "sampler.steps=4", f"output={out}")
            done = command("sample", *words)
            assert done.code == 0, done.err
            with np.load(out / "samples.npz") as file:
                drawn.append(file[file.files[0]].astype(float))
    assert drawn[0].std() > 0
    for ours, theirs in zip(drawn[:2], drawn[2:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_each_goes_on_as_the_other(runs, tmp_path, resume, launch):
    """From two processes with sharded weights to two, to two with whole weights and to one; and from one to two."""
    two, one = runs
    more = ("trainer.max_steps=8", "metrics=none")
    shared = ("trainer.accelerator=cpu", "dataset.batch_size=8", "trainer.accumulate_grad_batches=2", *more)

    def on(run, name, *trainer):
        folder = Path(shutil.copytree(run, tmp_path / name))
        if trainer:
            launch(tmp_path, f"resume={folder}", *trainer, *shared)
        else:
            train(resume(folder, "trainer=cpu", "dataset.batch_size=16", "trainer.accumulate_grad_batches=2", *more))
        return read_checkpoint(folder / "checkpoints" / "last.ckpt")

    alone = on(two, "alone")
    for found, expected in (
        (on(two, "sharded", "trainer=fsdp"), alone),
        (on(two, "whole", "trainer=ddp"), alone),
        (on(one, "shared", "trainer=fsdp"), on(one, "as_before")),
    ):
        assert found["position"] == expected["position"] == 256
        for name in ("state_dict", "ema"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    left = {name: len([*(tmp_path / name / "checkpoints").glob("last-*.shard")]) for name in ("alone", "sharded")}
    assert left == {"alone": 0, "sharded": 2}  # nothing is left of the former last checkpoint


def test_a_missing_shard_is_one_line_with_the_next_best(runs, tmp_path, command):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    torn = files_of(run / "checkpoints" / "last.ckpt")[1]
    torn.unlink()
    done = command("sample", f"run={run}", "num_samples=2", f"output={tmp_path / 'out'}")
    assert done.code == 2
    line = done.err.strip().splitlines()[-1]
    assert f"{torn.name}, a part of it, is not beside it; copy that file from where it was saved" in line
    assert "checkpoint=best takes that of step 6 in its place" in line


def test_adapters_are_trained_beside_sharded_frozen_weights(runs, tmp_path, configure, launch, fast):
    """A LoRA of a transformer, whose base is sharded too, has the weights of one process."""
    pytest.importorskip("peft")
    base = ("backbone=dit", "backbone.depth=2", "backbone.channels=16", "metrics=none", "callbacks=default")
    train(configure(tmp_path / "base", *base, "trainer.max_steps=2"))
    words = (f"from={tmp_path / 'base'}", "adaptation=lora", "optimizer.lr=0.01", "lr_scheduler.warmup_steps=0")
    words += ("trainer.max_steps=3", "logger=csv", "metrics=none", "trainer.val_check_interval=3")
    two = ("trainer=fsdp", "trainer.accelerator=cpu", "dataset.batch_size=8", f"paths.run_dir={tmp_path / 'two'}")
    launch(tmp_path, *words, *two)
    one = ("trainer=cpu", "dataset.batch_size=16", f"paths.run_dir={tmp_path / 'one'}")
    launch(tmp_path, *words, *one)
    found, expected = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("two", "one"))
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert all("lora_" in name for name in found["ema"]["weights"])
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found["ema"], expected["ema"], rtol=1e-3, atol=1e-5)


def test_a_transformer_in_bfloat16_with_recomputed_blocks_has_the_numbers_of_whole_weights(
    tmp_path, launch, fast, history
):
    words = (*fast, "model=classifier_free", "backbone=dit", "backbone.depth=2", "backbone.channels=32")
    words += (
        "backbone.checkpointing=true",
        "trainer.precision=bf16-mixed",
        "trainer.max_steps=4",
        "optimizer.lr=0.002",
    )
    words += ("trainer.log_every_n_steps=1", "lr_scheduler.warmup_steps=0", "trainer.val_check_interval=4")
    for name in ("fsdp", "ddp"):
        two = (f"trainer={name}", "trainer.accelerator=cpu", "dataset.batch_size=16")
        launch(tmp_path, *words, *two, f"paths.run_dir={tmp_path / name}")
    for ours, theirs in zip(history(tmp_path / "fsdp"), history(tmp_path / "ddp"), strict=True):
        for name in theirs.keys() - SPEED:
            if theirs[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5), (name, ours["step"])
