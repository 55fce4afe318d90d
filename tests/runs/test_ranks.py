"""Several processes share the samples and features of metrics: the numbers are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffsweep.layers.distributed import agreed, distributed, gathered, is_first, share_of, together

SRC = Path(__file__).resolve().parents[2] / "src"
SPEED = {"images_per_second"}


def numbers_of(file):
    metrics = json.loads(Path(file).read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name not in SPEED}


def close(one, other):
    assert one.keys() == other.keys()
    assert all(one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-7) for name in one), (one, other)


@pytest.mark.slow
def test_a_run_on_two_devices_has_the_numbers_of_one_process(tmp_path, environment):
    """Of a run that two processes trained and measured, with batches that do not divide evenly between them.

    One process measures its weights again, then two that torchrun starts; each computes the features of real data anew.
    """

    def done(*words, cwd=tmp_path, python=()):
        line = [sys.executable, *python, *map(str, words)]
        found = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
        assert found.returncode == 0, found.stderr[-3000:]

    run = tmp_path / "run"
    few = ["model=classifier_free", "logger=csv", "verify=false", "backbone.channels=16", "sampler=ddim"]
    few += ["sampler.steps=4", "trainer.max_steps=4", "metrics=digits", "metrics.num_samples=70", "metrics.resamples=4"]
    few += ["metrics.batch_size=16", "metrics.reference=train", "callbacks=minimal"]
    caches = [f"paths.cache_dir={tmp_path / name}" for name in ("a", "b", "c")]
    two = ["trainer=ddp", "trainer.accelerator=cpu"]
    done(SRC / "train.py", *few, *two, f"paths.run_dir={run}", caches[0])
    trained = numbers_of(run / "metrics.json")
    done(SRC / "evaluate.py", f"run={run}", f"output={tmp_path / 'one'}", caches[1])
    close(trained, numbers_of(tmp_path / "one/metrics.json"))
    python = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done(SRC / "evaluate.py", f"run={run}", f"output={tmp_path / 'two'}", caches[2], python=python)
    close(trained, numbers_of(tmp_path / "two/metrics.json"))


def _shares(rank, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=folder.name)
    with together():
        own = [torch.full((1,), float(part)) for part in share_of(range(5))]
        found = gathered(own), agreed(rank == 0), is_first()
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
def test_parts_are_gathered_in_order_on_the_first_process(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        folder = tmp_path / str(server.getsockname()[1])
    folder.mkdir()
    torch.multiprocessing.spawn(_shares, (folder,), 2)
    (first, yes, leads), (second, yes_too, follows) = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    assert [part.item() for part in first] == [0, 1, 2, 3, 4]
    assert second == []
    assert (yes, yes_too, leads, follows) == (True, True, True, False)


def test_a_process_alone_has_all_parts():
    assert gathered(share_of([3, 1, 2])) == [3, 1, 2]
    assert agreed(False) is False
    with together():
        assert is_first()
        assert not distributed()
