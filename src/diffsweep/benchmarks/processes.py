"""The cost of sharing a training step among processes of a CPU, where each has one thread."""

import os
import socket
from threading import BrokenBarrierError
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, open_dict
from torch.multiprocessing.spawn import start_processes

from diffsweep.benchmarks.base import Bench, Ratio, Results, compare, part
from diffsweep.benchmarks.training import Interleave
from diffsweep.errors import Failed, UserError
from diffsweep.progress import ProgressMeter

COUNT = 2  # processes
WARM_UP = 2  # blocks that are left out
OTHERS = "the other processes"
STRATEGIES = {  # labels of what shares the work
    "with all weights on each": "ddp",
    "with half of the weights on each": {"_target_": "diffsweep.callbacks.ShardedStrategy"},
}
PATIENCE = 600.0  # seconds for the processes to start, or to run a block of steps


class Turns(Callback):
    """A callback of Lightning that lets a process train blocks of steps in turn with another training.

    Args:
        barrier: passed by all before each block, and after it.
        steps: the number of steps of a block.
    """

    def __init__(self, barrier: Any, steps: int) -> None:
        self.barrier, self.steps = barrier, steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.steps == 0:
            self.barrier.wait(PATIENCE)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.steps == 0:
            self.barrier.wait(PATIENCE)


@part
def processes(bench: Bench) -> Results:
    """Return, by labels, the ratios of the time of a step on two processes to that on one, on the CPU.

    This is the part ``processes`` of ``benchmark.py``. Two processes of one thread each train with half of the batch
    and exchange gradients by gloo, one process of two threads trains with the whole batch, in blocks of steps, in turn;
    the first two blocks are left out. At a ratio r the throughput of the two processes is 1 / r of the other's. Each of
    them has all weights, or shards of them, for models that can be sharded.

    Raises:
        UserError: the batch is odd.
        Failed: a process has ended.
    """
    cfg = _settings(bench.cfg, devices=1, strategy="auto")
    if cfg.dataset.batch_size % COUNT:
        raise UserError(f"dataset.batch_size={cfg.dataset.batch_size} does not divide among {COUNT} processes")
    kinds = {label: kind for label, kind in STRATEGIES.items() if kind == "ddp" or bench.fresh(cfg)[0].shardable}
    name = f"training step of {COUNT} processes of one thread"
    return {f"{name}, {label}, against one of {COUNT}": _ratio(bench, cfg, kind) for label, kind in kinds.items()}


def _ratio(bench: Bench, cfg: DictConfig, strategy: Any) -> Ratio:
    """Return the ratio of the time of a step on two processes to that on one, for one strategy of Lightning."""
    shared = _settings(bench.cfg, devices=COUNT, strategy=strategy)
    shared.dataset.batch_size //= COUNT
    shared.trainer.max_steps -= 1
    context = torch.multiprocessing.get_context("spawn")
    barrier = context.Barrier(COUNT + 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    threads = torch.get_num_threads()
    others = start_processes(_train, (bench, shared, barrier, port), COUNT, join=False, start_method="spawn")

    def run_others(steps: int) -> None:
        barrier.wait(PATIENCE)
        barrier.wait(PATIENCE)

    try:
        torch.set_num_threads(COUNT)
        model, data = bench.fresh(cfg)
        with ProgressMeter("one process and two", cfg.repeats + WARM_UP, "block") as progress:
            interleave = Interleave(lambda _: {OTHERS: run_others}, cfg.train_steps, progress)
            bench.trainer(cfg, [interleave]).fit(model, data)
    except BrokenBarrierError as error:
        raise Failed("a process of the benchmark has ended; its message states why") from error
    finally:
        torch.set_num_threads(threads)
        barrier.abort()
        for process in others.processes:
            process.join(PATIENCE / 10)
            process.kill()
    return compare(interleave.seconds[OTHERS][WARM_UP:], interleave.ours[WARM_UP:])


def _settings(cfg: DictConfig, **trainer: Any) -> DictConfig:
    """Return the configuration of a training of all blocks, and the first step of one more, without validation."""
    settings = cfg.copy()
    with open_dict(settings):
        settings.trainer.update(trainer, accelerator="cpu", limit_val_batches=0, log_every_n_steps=10**9)
    settings.trainer.max_steps = (cfg.repeats + WARM_UP) * cfg.train_steps + 1
    return settings


def _train(rank: int, bench: Bench, cfg: DictConfig, barrier: Any, port: int) -> None:
    """Train in one of the processes, in turn with the other side."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        model, data = bench.fresh(cfg)
        bench.trainer(cfg, [Turns(barrier, cfg.train_steps)]).fit(model, data)
    except BaseException:
        barrier.abort()
        raise
