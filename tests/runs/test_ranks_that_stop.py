"""Several processes (ranks) of one run: signals, a lack of memory and kills that reach one of them, or all."""

import json
import os
import re
import signal
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from trainers import FakeTrainer

from diffsweep.errors import Failed, Stopped
from diffsweep.runs import ranks, stopping
from diffsweep.runs.ranks import errors_of_ranks, meeting
from diffsweep.runs.signals import handling
from diffsweep.runs.stopping import StopSignals

# A package with a callback that lets rank R have a fault in step S, by FAULTS="R:S:signal number or memory,...".
FAULTY = """
import os
import torch
from lightning import Callback

class Faulty(Callback):
    def on_before_backward(self, trainer, *_):
        for fault in filter(None, os.environ.get("FAULTS", "").split(",")):
            rank, step, what = fault.split(":")
            if (int(rank), int(step)) == (trainer.global_rank, trainer.global_step + 1):
                if what == "memory":
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
                os.kill(os.getpid(), int(what))
"""
TERM, USR1, INT = (int(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))


@pytest.fixture
def two(process, fast, tmp_path):
    """``done = two(faults, *overrides)`` trains on two processes of the CPU, of which some have faults."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    words = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=6", "trainer.val_check_interval=6")
    package = ("+callbacks.faulty._target_=faulty.Faulty", "trust=[faulty]", "paths.run_dir=run")

    def two(faults, *overrides):
        line = overrides if "resume=run" in overrides else (*fast, *words, *package, *overrides)
        return process("train", *line, cwd=tmp_path, FAULTS=faults, PYTHONPATH=str(tmp_path), timeout=240)

    return two


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "code", "step"),
    [
        (f"0:2:{TERM}", 143, 2),
        (f"1:3:{USR1}", 143, 3),
        (f"1:6:{TERM}", 143, 6),
        (f"0:2:{INT},1:2:{INT}", 130, 2),
        (f"0:3:{TERM},1:2:{TERM}", 143, 2),
    ],
)
def test_all_stop_at_the_step_in_which_one_received_a_signal(faults, code, step, two, tmp_path, checkpoint):
    done = two(faults)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count(f"stopped at step {step}, saved in run/checkpoints/last.ckpt") == 1
    assert checkpoint(tmp_path / "run")["global_step"] == step
    state = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert state == {"state": "preempted" if code == 143 else "interrupted", "step": step}
    if step == 3:  # two processes go on where two were
        resumed = two("", "resume=run", "trainer.max_steps=8", "trust=[faulty]")
        assert resumed.returncode == 0, resumed.stderr
        assert checkpoint(tmp_path / "run")["global_step"] == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "words", "resumed"), [(0, (), ""), (1, ("trainer.val_check_interval=2",), "resume=run ")]
)
def test_a_lack_of_memory_on_one_of_them_is_answered_with_what_to_type(rank, words, resumed, two, tmp_path, checkpoint):
    """What is typed trains to the end; the batch of each of the two processes is half of it, twice as often."""
    done = two(f"{rank}:3:memory", *words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (answer,) = re.findall(r"^error: out of memory.*$", done.stderr, re.MULTILINE)
    half = "dataset.batch_size=16 trainer.accumulate_grad_batches=2"
    assert answer.startswith(
        "error: out of memory on the device in training step 3 with dataset.batch_size=32, which is not halved since "
        "the run has several devices, and the others wait for the gradients of this one; try "
        f"{resumed and f'{resumed}with '}{half}, "
    )
    if resumed:
        again = two("", "resume=run", *half.split(), "trust=[faulty]")
    else:
        again = two("", *half.split(), "paths.run_dir=again")
    assert again.returncode == 0, again.stderr
    saved = checkpoint(tmp_path / ("run" if resumed else "again"))
    assert saved["global_step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_of_one_of_them_ends_the_other(rank, two):
    done = two(f"{rank}:3:{int(signal.SIGKILL)}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_signal_of_another_rank_counts_and_others_than_the_first_exit_with_0(monkeypatch):
    monkeypatch.setattr(stopping, "largest", lambda number: max(number, TERM))
    for is_first, code in ((True, 143), (False, 0)):
        trainer = FakeTrainer()
        trainer.is_global_zero = is_first
        with StopSignals("last.ckpt") as signals:
            signals.on_train_start(trainer, None)
            signals.on_train_batch_end(trainer, None, None, None, 0)
            with pytest.raises(Stopped) as stopped:
                signals.on_train_batch_start(trainer, None, None, 1)
        assert stopped.value.code == code
        assert trainer.saved == ["last.ckpt"]


def test_the_end_of_another_process_is_one_line_and_other_errors_are_themselves(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    closed = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:6457"
    for is_distributed, text, kind in (
        (True, closed, Failed),
        (False, closed, RuntimeError),
        (True, "x", RuntimeError),
    ):
        monkeypatch.setattr(ranks, "distributed", lambda value=is_distributed: value)
        with pytest.raises(kind), errors_of_ranks():
            raise RuntimeError(text)


def test_a_signal_ends_a_process_that_waits_in_c_plus_plus_for_others(monkeypatch):
    """torch's store waits for a second process that never comes; the handler runs only when it gives up."""
    ends, handled, killed = [], [], []
    monkeypatch.setattr(ranks, "TURN", 0.2)
    monkeypatch.setattr("os._exit", lambda code: ends.append((code, len(handled))))
    launcher = SimpleNamespace(kill=killed.append)
    trainer = SimpleNamespace(
        world_size=2, num_nodes=1, local_rank=0, strategy=SimpleNamespace(launcher=launcher), is_global_zero=True
    )
    stopped = []
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    with handling({signal.SIGTERM: lambda *_: handled.append("TERM")}), meeting(trainer, stopped.append):
        timer.start()
        with pytest.raises(torch.distributed.DistError):
            torch.distributed.TCPStore("127.0.0.1", 0, 2, True, timedelta(seconds=1.5))
    assert (ends, stopped, killed, handled) == ([(143, 0)], [143], [signal.SIGKILL], ["TERM"])


def test_processes_that_have_met_handle_signals_themselves(monkeypatch):
    ends = []
    monkeypatch.setattr(ranks, "TURN", 0.05)
    monkeypatch.setattr(ranks, "distributed", lambda: True)
    monkeypatch.setattr("os._exit", ends.append)
    trainer = SimpleNamespace(world_size=2, num_nodes=1, local_rank=0, strategy=None)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    with handling(), meeting(trainer, ends.append):
        timer.start()
        with pytest.raises(Stopped):
            time.sleep(5)
    assert ends == []
    assert signal.set_wakeup_fd(-1) == -1
