"""How the processes of a training share its work, and what it costs them: the sum of the gradients of each step.

Each of N processes computes its own batch, and all sum their gradients (DDP). On a CPU the sum is measured, by gloo
between as many processes as a machine has; it takes the time of the same cores, so that a step takes T_c + T_a. On GPUs
it is calculated from the rates of the links (:mod:`diffsweep.benchmarks.scaling`), and overlaps with the backward pass
of the step's last batch, two thirds of its time T_b: a step takes T_c + max(0, T_a - 2/3 T_b).

Sharded weights (FSDP) are gathered for the forward and for the backward pass, and their gradients scattered: three
halves of what a sum sends, which is one scattering and one gathering.
"""

import os
import socket
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch.multiprocessing.spawn import start_processes

from diffsweep.benchmarks.scaling import H100, seconds_to_sum
from diffsweep.configuration.build import device_of
from diffsweep.configuration.rules.sharding import shards
from diffsweep.errors import Failed
from diffsweep.runs.machine import processes_of

BUCKET = 25 * 2**20  # bytes of gradients that are sent at once, as DDP does
MOST = 8 * BUCKET  # bytes of gradients whose sum is timed; that of more takes as much longer
TIMES = 5  # sums, of which all but the first are timed
PATIENCE = 300.0  # seconds for the processes to start
BACKWARD = 2 / 3  # of the time of a batch
SHARDED = 3 / 2  # of the time of a sum of gradients


@dataclass(frozen=True)
class Sharing:
    """How many processes share a training, and what this costs. Times are in seconds, sizes in bytes.

    Attributes:
        machines: the machines.
        devices: of each machine; each has a process.
        summing: in which the gradients of a step are summed, T_a.
        overlap: the share of the time of a batch in which they can be summed beside it.
        starting: in which the other processes start.
        buckets: of the copy of the gradients that each process sends.
        assumed: where these come from, in words.
    """

    machines: int = 1
    devices: int = 1
    summing: float = 0.0
    overlap: float = 0.0
    starting: float = 0.0
    buckets: int = 0
    assumed: str = ""

    @property
    def processes(self) -> int:
        """Return the processes of the training."""
        return self.machines * self.devices

    def beyond(self, batch: float) -> float:
        """Return the seconds that the sum of gradients adds to a step whose last batch takes ``batch`` seconds."""
        return max(0.0, self.summing - self.overlap * batch)


ALONE = Sharing()


def first_share(count: int, rows: int, processes: int) -> int:
    """Return how many of a number of samples the first of several processes takes, as batches are dealt out in turn.

    Args:
        count: the samples.
        rows: of a batch.
        processes: the processes.
    """
    return sum(min(rows, count - begin) for begin in range(0, count, rows * processes))


def sharing_of(cfg: DictConfig, gradients: int, building: float) -> Sharing:
    """Return how the processes of a training share its work; a single one shares nothing, and sharded ones send more.

    Args:
        cfg: its configuration.
        gradients: the bytes of all gradients.
        building: seconds in which a process builds its data and model.
    """
    if processes_of(cfg) == 1:
        return ALONE
    whole = _whole(cfg, gradients, building)
    if not shards(cfg):
        return whole
    assumed = f"{whole.assumed}; sharded weights take three halves of such a sum"
    return replace(whole, summing=SHARDED * whole.summing, buckets=0, assumed=assumed)


def _whole(cfg: DictConfig, gradients: int, building: float) -> Sharing:
    """Return how several processes share a training if each has all weights."""
    processes, machines = processes_of(cfg), int(cfg.trainer.get("num_nodes", 1))
    devices = processes // machines
    links = replace(H100, devices=devices)
    rates = f"{links.bandwidth * links.within / 1e9:.0f} GB/s between the devices of a machine"
    between = f"{links.bandwidth * links.between / 1e9:.0f} GB/s between machines"
    if device_of(cfg).type == "cuda":
        summing = seconds_to_sum(gradients, 1, machines, links)
        words = f"{rates} and {between}" if machines > 1 else rates
        assumed = f"sums of gradients at {words} (those of an H100, not measured), beside the backward pass"
        return Sharing(machines, devices, summing, BACKWARD, building, gradients, assumed)
    summing, started = measured_sum(gradients, devices) if devices > 1 else (0.0, 0.0)
    assumed = f"sums of gradients as gloo was measured in {devices} processes, and nothing beside them"
    if machines > 1:
        summing += seconds_to_sum(gradients, 1, machines, links) - seconds_to_sum(gradients, 1, 1, links)
        assumed += f"; {between}, not measured"
    return Sharing(machines, devices, summing, 0.0, started + building, gradients, assumed)


def measured_sum(size: int, processes: int) -> tuple[float, float]:
    """Return the seconds in which processes of this machine sum tensors by gloo, and those in which they start.

    Args:
        size: the bytes of the tensors of each process.
        processes: their number.

    Raises:
        Failed: they do not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    timed, begin = min(size, MOST), time.perf_counter()
    others = start_processes(_sum, (processes, port, timed, queue), processes, join=False, start_method="spawn")
    assert others is not None
    try:
        end = time.monotonic() + PATIENCE
        while not others.join(timeout=0.1):
            if time.monotonic() > end:
                raise Failed("the processes in which the sum of gradients is timed do not end")
        first, seconds = queue.get()
    finally:
        for process in others.processes:
            process.kill()
    started = max(0.0, time.perf_counter() - begin - first - (TIMES - 1) * seconds)
    return seconds * size / timed, started


def _sum(rank: int, processes: int, port: int, size: int, queue: Any) -> None:
    """Sum tensors with the other processes, and let the first put the seconds of the first sum, and of another."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=processes)
    parts = torch.ones(max(1, size // 4)).split(BUCKET // 4)
    seconds = []
    for _ in range(TIMES):
        torch.distributed.barrier()
        begin = time.perf_counter()
        for work in [torch.distributed.all_reduce(part, async_op=True) for part in parts]:
            work.wait()
        seconds.append(time.perf_counter() - begin)
    if rank == 0:
        queue.put((seconds[0], statistics.median(seconds[1:])))
    torch.distributed.destroy_process_group()
