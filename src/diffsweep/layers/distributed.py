"""Work that several processes (ranks) share, as in training on several devices."""

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Shared = TypeVar("Shared")


def distributed() -> bool:
    """Return whether ``torch.distributed`` is initialised, so that sums must be reduced over all processes (ranks).

    Some builds of PyTorch have no ``torch.distributed``; the answer is False with them.
    """
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def together() -> Iterator[None]:
    """Join the other processes that ``torchrun`` has started, if any, for the body of a ``with`` statement.

    A process that is alone, or has joined others already, is left as it is. With GPUs each process uses its own.
    """
    if distributed() or "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        leave()


def leave() -> None:
    """Leave the other processes, if any, so that this one can join others, as for the next run of a sweep."""
    if distributed():
        torch.distributed.destroy_process_group()
    _group.cache_clear()


def is_first() -> bool:
    """Return whether this process is alone or the first of several (rank 0), which writes and prints."""
    return not distributed() or torch.distributed.get_rank() == 0


def share_of(parts: Sequence[Shared]) -> Sequence[Shared]:
    """Return this process's share of the parts of a work: of n processes that of rank r has the parts r, r + n, ...

    A process that is alone has all parts.
    """
    return parts[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if distributed() else parts


def gathered(own: Sequence[Shared]) -> list[Shared]:
    """Return the results of all processes on the first one, in the order of the parts that :func:`share_of` divides.

    All processes must call it. The first alone needs the memory of all results; the others get an empty list.

    Args:
        own: the results of this process's share, one for each part, such as tensors on the CPU.
    """
    if not distributed():
        return list(own)
    shares: list[Any] | None = [None] * torch.distributed.get_world_size() if is_first() else None
    torch.distributed.gather_object(list(own), shares, dst=0, group=_group())
    if shares is None:
        return []
    world = len(shares)
    return [shares[part % world][part // world] for part in range(sum(map(len, shares)))]


def agreed(answer: bool) -> bool:
    """Return the first process's answer on all processes, which must all call it."""
    if not distributed():
        return answer
    answers = [answer]
    torch.distributed.broadcast_object_list(answers, src=0, group=_group())
    return answers[0]


def largest(number: int) -> int:
    """Return the largest number that a process has, on all of them, which must all call it.

    It is sent between CPUs, so that no GPU is waited for.
    """
    if not distributed():
        return number
    found = torch.tensor([number])
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=_group())
    return int(found)


def summed(part: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, which must all call it; a process that is alone has its own.

    Args:
        part: this process's part of the sum, on the device of training; it is not changed.
    """
    if not distributed():
        return part
    total = part.clone()
    torch.distributed.all_reduce(total)
    return total


def only_first(total: Tensor) -> Tensor:
    """Return a tensor on the first process, and zeros on the others: parts whose sum over the processes it is."""
    return total if is_first() else torch.zeros_like(total)


@functools.cache
def _group() -> Any:
    """Return a group of all processes for objects on the CPU, which the one of training on GPUs does not send."""
    return torch.distributed.new_group(backend="gloo")
