"""The memory that a training step takes: what is known from the tensors at hand, and what is measured of a step.

The bytes of weights, gradients, optimizer state and average follow from the sizes of the tensors. Those that autograd
keeps of a forward pass for the backward pass (activations) are counted by its hooks; they grow linearly with the batch,

    M(B) = M_0 + m B,

so that two batches give M_0, m and the largest batch that a device holds. Of a GPU M is the most memory that torch has
allocated; of a CPU it is the most resident memory of the process, which has what libraries take for themselves too.
"""

import contextlib
import gc
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffsweep.layers import trim
from diffsweep.runs.cost import peak_memory

SHARE = 0.9  # of a device's memory that a suggested batch may take
GIB = 2**30
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
AVAILABLE = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of containers


class KeptBytes(NamedTuple):
    """The bytes of what a training keeps on its device between steps.

    Attributes:
        weights: of all parameters and buffers of the model.
        gradients: of the parameters that train.
        optimizer: of the states of the optimizer, such as two averages of the gradient for Adam.
        average: of the averaged weights.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int


def bytes_of(tensors: Iterable[Any]) -> int:
    """Return the bytes of the numbers of tensors; what is no tensor counts nothing, and one that occurs twice once."""
    found = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor)}
    return sum(found.values())


def known_bytes(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], averages: Iterable[Mapping[str, Tensor]]
) -> KeptBytes:
    """Return the bytes of what a training keeps on its device between steps.

    Args:
        model: the model that is trained.
        optimizers: its optimizers, which have taken a step.
        averages: the averaged weights by name, of each average that is kept.
    """
    states = (value for optimizer in optimizers for state in optimizer.state.values() for value in state.values())
    return KeptBytes(
        bytes_of([*model.parameters(), *model.buffers()]),
        bytes_of(weight for weight in model.parameters() if weight.requires_grad),
        bytes_of(states),
        bytes_of(weight for average in averages for weight in average.values()),
    )


def shares_of(known: KeptBytes, processes: int) -> KeptBytes:
    """Return the bytes of what each of several processes keeps if it is sharded over them, rounded up."""
    return KeptBytes(*(-(-part // processes) for part in known))


class SavedForBackward(contextlib.AbstractContextManager["SavedForBackward"]):
    """Count within a context the bytes that autograd keeps of a forward pass for the backward pass.

    Storages that several operations keep count once, and those of given tensors, such as weights, do not count.
    Activations that are recomputed in the backward pass (gradient checkpointing) are not kept and do not count.

    Args:
        apart: tensors that do not count.

    Attributes:
        bytes: of the kept storages so far.
    """

    def __init__(self, apart: Iterable[Tensor] = ()) -> None:
        self.bytes = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in apart}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> "SavedForBackward":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


class Peak:
    """The most memory that a device has used since a moment: of a GPU what torch allocated, else the resident memory.

    Args:
        device: the device of a training.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._before = device, 0
        if device.type == "cuda":
            torch.cuda.init()  # before it is initialised it has no statistics

    def now(self) -> int:
        """Return the bytes that are used now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _status("VmRSS") or round(peak_memory() * GIB)

    def most(self) -> int:
        """Return the most bytes that were used since :meth:`restart`; where nothing counts them anew, since ever."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status("VmHWM") or round(peak_memory() * GIB)

    def highest(self) -> int:
        """Return the most bytes that were used since the last :meth:`begin`, before a restart too."""
        return max(self._before, self.most())

    def restart(self) -> None:
        """Begin to count the most memory anew, from what is used now."""
        self._before = self.highest()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # not on other systems than Linux
                CLEAR.write_text("5")

    def begin(self) -> int:
        """Begin to count the most memory anew, without what was counted before, and return what is used now."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.restart()
        self._before = 0
        return self.now()

    def release(self) -> int:
        """Give memory that is allocated but not used back to the machine too, :meth:`begin`, and return what is used.

        Allocators of a CPU keep what was used once, so a training that follows another in a process takes more.
        """
        gc.collect()
        trim()
        return self.begin()


def _status(name: str) -> int | None:
    """Return a number of bytes that Linux states of this process; None on other systems."""
    return _kilobytes(STATUS, name)


def _kilobytes(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def capacity_of(device: torch.device, process: int) -> int | None:
    """Return the bytes of memory that a training may use on a device; None where the system does not state it.

    On a GPU it is what the device has beside other programs. On a CPU it is what the machine has available, within the
    limit of a container, and what this process uses already.

    Args:
        device: the device of the training.
        process: the bytes that this process uses now.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    found = [] if (free_now := _kilobytes(AVAILABLE, "MemAvailable")) is None else [free_now + process]
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(path.read_text()))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


@dataclass(frozen=True)
class Footprint:
    """The memory of a training, in bytes, as a function of the batch.

    Attributes:
        device: ``cpu`` or ``cuda``.
        known: what is kept between steps.
        process: what the process takes before it has a model; 0 on a GPU.
        batch: the samples of the batches that were measured.
        activations: what autograd keeps of the forward pass of such a batch.
        per_sample: m, by which the most memory of a step grows with each sample of the batch.
        step: the most memory of a training step, all included.
        peak: the most memory of the whole run, with its pictures, its checkpoints and its measurement.
        capacity: what the device has for a process; None where it is unknown.
        buckets: copies of the gradients that processes send each other.
    """

    device: str
    known: KeptBytes
    process: int
    batch: int
    activations: int
    per_sample: float
    step: int
    peak: int
    capacity: int | None
    buckets: int = 0

    @property
    def working(self) -> int:
        """Return the bytes of a step that are none of the others: gradients of activations, copies, libraries."""
        return max(0, self.step - self.process - sum(self.known) - self.activations - self.buckets)

    def of_batch(self, batch: int) -> float:
        """Return the predicted peak of the run with another batch, M_0 + m B, but not below that outside of steps."""
        outside = self.peak if self.peak > self.step else 0
        return max(outside, self.step + self.per_sample * (batch - self.batch))

    @property
    def fits(self) -> bool | None:
        """Return whether the run fits in the memory of the device; None where that is unknown."""
        return None if self.capacity is None else self.peak <= self.capacity

    @property
    def largest_batch(self) -> int | None:
        """Return the largest power of two that fits as a batch in 90 % of the memory; None if unknown, 0 if none."""
        if self.capacity is None or self.per_sample <= 0:
            return None
        return largest_within(SHARE * self.capacity, self.batch, self.step, self.per_sample)


def largest_within(room: float, batch: int, most: float, per_sample: float) -> int:
    """Return the largest power of two that fits as a batch, by M(B) = M_0 + m B; 0 if none does.

    Args:
        room: the bytes that it may take.
        batch: B of a batch that was measured.
        most: M(B), the most memory that this batch took, in bytes.
        per_sample: m, above 0.
    """
    left = room - (most - per_sample * batch)
    return 0 if left < per_sample else 2 ** int(math.log2(left / per_sample))


def line_through(first: tuple[int, float], second: tuple[int, float]) -> float:
    """Return the slope m of a line through two points (batch, bytes); 0 if the batches are equal."""
    return 0.0 if first[0] == second[0] else (second[1] - first[1]) / (second[0] - first[0])
