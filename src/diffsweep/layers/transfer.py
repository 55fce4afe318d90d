"""Copies of tensors between the CPU and another device, which a program need not wait for."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Used = TypeVar("Used")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the copy of a CPU tensor to a GPU is only begun, without waiting for its end.

    A tensor that is on the device already is returned unchanged.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def send_all(part: Any, device: torch.device) -> Any:
    """Return a batch with all its tensors on a device, as :func:`send` copies them; lists of texts stay as they are.

    Args:
        part: a tensor, an object that has a method ``to(device)``, or a dict of these.
        device: the device.
    """
    if isinstance(part, Tensor):
        return send(part, device)
    if isinstance(part, Mapping):
        return {name: send_all(each, device) for name, each in part.items()}
    return part.to(device) if hasattr(part, "to") else part


def release() -> None:
    """Give memory that no tensor uses any more back to the device, with that of compiled code."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # recorded calls hold memory of their own; networks that are left are compiled anew
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim() -> None:
    """Give memory of the CPU that was freed, but that the allocator has kept, back to the machine.

    Small tensors that stay, made between large ones that are freed, keep it in pieces of which the process grows. Only
    the allocator of the C library glibc is known to have a function for it; with another nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Received:
    """A copy of a tensor to the CPU, of a GPU into pinned memory: it is only begun, and :meth:`wait` returns it.

    The GPU copies when it has computed the tensor, while the program goes on and can queue more work behind the copy.

    Args:
        tensor: the tensor; what follows on the current stream of its GPU may change it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._ready: Any = None
        if tensor.device.type != "cuda":
            self._copy = tensor.cpu()
            return
        self._copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._ready = torch.cuda.Event(enable_timing=True)
        self._ready.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Return the copy when it is complete."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copy

    def seconds_since(self, begin: Any) -> float:
        """Return the seconds from an event of the same stream to the completed copy."""
        milliseconds: float = begin.elapsed_time(self._ready)
        return milliseconds / 1000


class Overlap:
    """A loop over tensors in which a device computes the next one while the last one is used on the CPU.

    On a GPU the work for a tensor is queued, and its copy to pinned memory behind it; then the tensor before it is
    used, so that the GPU has work meanwhile. What is used on the GPU too, such as a network of features, runs on a
    second stream and waits for nothing that was queued for the next tensor. On a CPU, which computes one thing at a
    time, each tensor is used before the next is computed. At most two tensors are alive on a GPU, on a CPU one.

    Args:
        device: the device that computes the tensors.

    Attributes:
        seconds: the time in which the tensors were computed and copied, without that of their use; on a GPU by its
            events, while the use shares the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device, on_gpu = device, device.type == "cuda"
        self._beside: Any = torch.cuda.Stream(device) if on_gpu else None

    def __call__(self, begun: Iterable[tuple[Tensor, Callable[[Tensor], Used]]]) -> Iterator[Used]:
        """Yield the results of the use of each tensor, in their order.

        Args:
            begun: yields a tensor on the device, and the function that uses its copy on the CPU.
        """
        return self._one_by_one(begun) if self._beside is None else self._beside_the_next(begun)

    def _one_by_one(self, begun: Iterable[tuple[Tensor, Callable[[Tensor], Used]]]) -> Iterator[Used]:
        begin = time.perf_counter()
        for x, use in begun:
            copy = x.cpu()
            self.seconds += time.perf_counter() - begin
            yield use(copy)
            del x, copy, use  # before the next one is computed
            begin = time.perf_counter()

    def _beside_the_next(self, begun: Iterable[tuple[Tensor, Callable[[Tensor], Used]]]) -> Iterator[Used]:
        last: Any = None
        begin = self._now()
        for x, use in begun:
            queued = (begin, Received(x), use)
            del x
            begin = self._now()
            if last is not None:
                yield self._used(*last)
            last = queued
        if last is not None:
            yield self._used(*last)

    def _now(self) -> Any:
        """Return an event at the end of what is queued on the GPU."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _used(self, begin: Any, received: Received, use: Callable[[Tensor], Used]) -> Used:
        copy = received.wait()
        self.seconds += received.seconds_since(begin)
        with torch.cuda.stream(self._beside):
            return use(copy)
